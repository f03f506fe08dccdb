"""What a layer of the network says of pictures, lightly noised: vectors to search, cluster or classify by.

oneprior features digits unknown/ --layer up.1 --t 0.1
oneprior features digits digits --split test

Writes features.npy, one row a picture in the order of result.json, and maps.png: the pictures, and below each the
three principal components of the layer's places as colours. Where the data has classes, a linear head's accuracy on
thirds of the pictures that it was not fitted to is said as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from oneprior.cli.settings import OnPictures, Writing


@dataclass(frozen=True, kw_only=True)
class FeaturesSettings(OnPictures, Writing):
    layer: str = "auto"
    """name of a layer of the network; auto: a block past the middle. The blocks and their shapes are listed"""
    t: float = 0.1
    """noise: a time from 0 (data) to 1"""
    pool: int = 2
    """cells an axis that a layer's grid is averaged to"""
    noises: int = 1
    """draws of noise to average over"""


SETTINGS = FeaturesSettings
SHOWN = 16


def run(s: FeaturesSettings, command: list[str]) -> int:
    import io

    import numpy as np
    import torch

    from oneprior.cli.work import Work, free, sheet
    from oneprior.training.files import write_bytes
    from oneprior.uses.features import pca_maps, validated

    if not 0 < s.t < 1:
        raise ValueError(f"--t {s.t:g}: a time above 0 and below 1 was expected")
    work, parts, shown, layer = Work(s), [], None, s.layer
    work.read("features")
    assert work.out is not None
    free([work.out / "features.npy", work.out / "maps.png"], s.force)
    for part, x in work.each("features"):
        how = {"layer": layer, "t": s.t, "pool": s.pool, "noises": s.noises, "seed": s.seed + part.start}
        out = work.prior.features(x, maps=part.start == 0, **how)
        work.add(out)
        layer = out.settings["layer"]
        if out.maps is not None and out.maps.ndim == 4:
            shown = sheet([x[:SHOWN].expand(-1, 3, -1, -1), pca_maps(out.maps)[:SHOWN]])
        if part.start == 0:
            rows = [
                {"layer": k, "shape": list(v[1:]), "read": "yes" if k == layer else ""} for k, v in out.shapes.items()
            ]
            work.screen.table(rows)
        parts.append(out.x.cpu())
        work.rows += [{"file": work.given.names[k], "row": k} for k in part]
    features, y, found = torch.cat(parts), work.given.labels, {}
    if shown is not None:
        found["maps"] = work.picture("maps", shown)
    buffer = io.BytesIO()
    np.save(buffer, features.numpy(), allow_pickle=False)
    write_bytes(work.out / "features.npy", buffer.getvalue())
    if y is not None and torch.as_tensor(y).unique(return_counts=True)[1].min() >= 3 and len(set(y.tolist())) > 1:
        found["accuracy"] = validated(features, torch.as_tensor(y))
        work.screen.say(f"accuracy of a linear head on left-out thirds {found['accuracy']:.4f} of {len(features)}")
    work.screen.say(f"{tuple(features.shape)} of {layer}: {work.out / 'features.npy'}")
    settings = {"layer": layer, "t": s.t, "pool": s.pool, "noises": s.noises}
    return work.finish(settings, features=str(work.out / "features.npy"), **found)
