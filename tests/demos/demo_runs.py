"""For each demo, numbers such as a seed of the whole demo measures; all claims hold with them."""

from minidl.demos.labels import ROWS


def _row(net, *values):
    return {f"{net}_{row}": value for row, value in zip(ROWS, values, strict=True)}


RUNS = {
    "motion": {
        "one_frame": 0.25, "single_same_backwards": 1.0,
        "single": 0.27, "early": 1.0, "late4": 1.0, "late1": 0.4, "c3d": 0.99, "convgru": 0.97,
        "single_steps": 300, "early_steps": 90, "late4_steps": 110, "late1_steps": 400, "c3d_steps": 60,
        "convgru_steps": 80,
    },
    "order": {
        "average": 0.5, "sequence": 0.95, "lstm": 0.95, "convgru": 0.95,
        "average_same_exchanged": 1.0, "sequence_same_exchanged": 0.02, "lstm_same_exchanged": 0.02,
        "convgru_same_exchanged": 0.02,
    },
    "labels": {
        **_row("conv2", 0.73, 0.74, 0.76, 0.75, 0.79),
        **_row("conv5", 0.83, 0.84, 0.84, 0.84, 0.86),
        **_row("conv10", 0.87, 0.88, 0.88, 0.88, 0.89),
        **_row("conv100", 0.93, 0.93, 0.93, 0.92, 0.93),
        **_row("mlp5", 0.84, 0.84, 0.84, 0.83, 0.82),
        **_row("mlp10", 0.87, 0.88, 0.88, 0.86, 0.84),
    },
    "vae": {
        "judge": 0.93, "manifold_classes": 10, "manifold_rarest": 13,
        "bernoulli2_confident": 0.47, "bernoulli2_classes": 10, "bernoulli2_naive": 0.6, "bernoulli2_parzen": 8.2,
        "bernoulli2_elbo": -24.95, "bernoulli2_kl": 2.4, "bernoulli2_importance": -24.5,
        "bernoulli10_confident": 0.43, "bernoulli10_classes": 10, "bernoulli10_naive": 0.6, "bernoulli10_parzen": 18.0,
        "bernoulli10_elbo": -24.3, "bernoulli10_kl": 3.1, "bernoulli10_importance": -23.9,
        "gaussian10_confident": 0.33, "gaussian10_classes": 10, "gaussian10_naive": 0.5, "gaussian10_parzen": 15.7,
        "gaussian10_elbo": 53.8, "gaussian10_kl": 16.3, "gaussian10_importance": 60.5,
        "plain2_confident": 0.59, "plain2_classes": 4, "plain2_naive": 0.73, "plain2_parzen": -10.0,
        "plain10_confident": 0.17, "plain10_classes": 9, "plain10_naive": 0.48, "plain10_parzen": -16.7,
        "pixels_confident": 0.23, "pixels_classes": 10, "pixels_naive": 0.43, "pixels_parzen": 6.2,
        "noise_confident": 0.13, "noise_classes": 9, "noise_naive": 0.48, "noise_parzen": -40.1,
    },
    "dcgan": {
        "parzen": 15.2, "parzen_pixels": 5.4, "parzen_train": 23.7, "classes": 10, "confident": 0.5, "nearest": 0.52,
        "distance": 1.38, "distance_test": 1.16, "arithmetic": 0.87, "random": 0.03, "means": 10, "largest_step": 0.25,
        "midpoint": 1.39, "blend": 1.47,
    },
}  # fmt: skip
