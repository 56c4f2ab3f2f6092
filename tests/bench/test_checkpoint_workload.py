"""C3D's training step with checkpoints computes what the plain one does."""

from __future__ import annotations

import pytest

from minidl.bench.workloads.c3d import cases

TINY = {"batch": 2, "frames": 4, "size": 32, "width": 4, "units": 32}


@pytest.mark.parametrize("library", ["minidl", "torch"])
def test_results_are_those_of_the_plain_step(library):
    pytest.importorskip(library, reason="PyTorch, the peer, is not installed")
    plain, saving = (cases(library, **TINY, checkpoint=checkpoint)["training step"] for checkpoint in (0, 1))
    for _ in range(3):  # the later ones depend on the gradients of the earlier
        assert saving(check=True).value == pytest.approx(plain(check=True).value, rel=1e-6)


def test_less_is_kept_for_the_gradient(monkeypatch):
    import minidl
    from minidl import Tensor

    kept = {}
    original = Tensor.backward

    def backward(self, *args, **options):
        seen, arrays, todo = set(), {}, [self.node]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo += node.parents
                if node.primitive is not None and node.saved:
                    saved = [a for _, a in node.primitive.saved_arrays(node) if a.ndim == 5]
                    arrays |= {id(a): a.nbytes for a in saved if len(a) == TINY["batch"]}  # not the weights
        kept[checkpoint] = sum(arrays.values())
        original(self, *args, **options)

    monkeypatch.setattr(minidl.Tensor, "backward", backward)
    for checkpoint in (0, 1):
        cases("minidl", **TINY, checkpoint=checkpoint)["training step"]()
    assert 0 < kept[1] < 0.5 * kept[0]
