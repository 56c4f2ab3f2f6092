"""What is measured. Each module has `cases(library)`: name -> a function that runs once and returns seconds."""
