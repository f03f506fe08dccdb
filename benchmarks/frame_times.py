"""What a time a frame costs: the forward pass of a network of clips, beside the same network modulated once a clip.

The floor is the network as a scalar one would be built: embedding and modulations computed for one time a clip and
repeated over its frames; everything else is the same code. `python benchmarks/frame_times.py --json FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.nets import ClipConfig, DiTConfig, UNetConfig, build

BAR = 1.2
CASES: dict[str, Any] = {
    "unet, small, 8 x 16 x 16": ClipConfig((8, 1, 16, 16), frame=UNetConfig.sized((1, 16, 16))),
    "dit, small, 8 x 32 x 32": ClipConfig((8, 1, 32, 32), frame=DiTConfig.sized((1, 32, 32))),
}


class Once(nn.Module):
    """A layer of e, computed for the first frame of each clip and repeated."""

    def __init__(self, layer: nn.Module, frames: int) -> None:
        super().__init__()
        self.layer, self.frames = layer, frames

    def forward(self, e: Tensor, *more: Any) -> Tensor:
        cut = [v[:: self.frames] if isinstance(v, Tensor) else v for v in (e, *more)]
        return self.layer(*cut).repeat_interleave(self.frames, 0)


def scalar(net: nn.Module, frames: int) -> nn.Module:
    """The network with everything that depends on time alone computed once a clip; it changes in place."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if name in ("modulation", "embedding"):
                setattr(module, name, Once(child, frames))
    return net


def seconds(net: nn.Module, x: Tensor, t: Tensor, repeats: int) -> list[float]:
    out = []
    for _ in range(repeats):
        began = time.process_time()
        net(x, t)
        out.append(time.process_time() - began)
    return out


@torch.inference_mode()
def measure(config: ClipConfig, batch: int = 2, repeats: int = 9) -> tuple[float, float]:
    """Median seconds of the processor with a time a frame, and of the floor, taken in turns on one thread."""
    frames = config.shape[0]
    net, floor = build(config, 0).eval(), scalar(build(config, 0).eval(), frames)
    x, t = torch.randn(batch, *config.shape), torch.rand(batch, frames)
    same = t[:, :1].expand(-1, frames)
    torch.testing.assert_close(net(x, same), floor(x, same))
    mine, least = [], []
    for _ in range(repeats):
        mine += seconds(net, x, t, 1)
        least += seconds(floor, x, same, 1)
    return float(torch.tensor(mine).median()), float(torch.tensor(least).median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, config in CASES.items():
        value, floor = measure(config)
        ratio = value / floor
        what = f"oneprior, a time a frame, {name}, ms"
        row = {"what": what, "value": 1e3 * value, "floor": 1e3 * floor, "ratio": ratio, "bar": f"<= {BAR}"}
        rows.append(row | {"holds": ratio <= BAR})
        print(f"{what}: {1e3 * value:.1f} ms, once a clip {1e3 * floor:.1f} ms, ratio {ratio:.3f}")
    if args.json:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        record = {"name": "frame_times", "versions": {"torch": version("torch")}, "load": load, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
