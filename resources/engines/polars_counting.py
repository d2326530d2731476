"""Placeholder while the engine is being written: correct, slow."""

from __future__ import annotations
import numpy as np, polars as pl
from resources.engines.counting import *


def count_parquet(paths, plan, *, score_paths=None, storage_options=None):
    f = pl.concat([pl.read_parquet(p, glob=False, storage_options=storage_options) for p in paths])
    if score_paths:
        s = pl.concat([pl.read_parquet(p, glob=False, storage_options=storage_options) for p in score_paths])
        f = f.with_columns(s[plan.score])
    sc = f[plan.score].to_numpy()
    micro = np.rint(np.nan_to_num(sc) * 1e6).astype(np.int64)
    keys = {("", ""): np.ones(f.height, bool)}
    for sg in plan.segments:
        v = f[sg.name]
        for x in sg.values:
            keys[sg.name, x] = (v == x).fill_null(False).to_numpy()
        keys[sg.name, "other"] = (~v.is_in(list(sg.values))).fill_null(False).to_numpy()
        keys[sg.name, "null"] = v.is_null().to_numpy()
    bins = {}
    sums = {}
    tails = {}
    codes = {}
    for c in plan.columns:
        s = f[c.name]
        if isinstance(c, NumericColumn):
            x = s.to_numpy().astype(float)
            n = len(x)
            code = np.full(n, -1)
            o = 0
            for p in c.points:
                code[x == p] = o
                o += 1
            base = o
            o += 0 if c.unseen else len(c.edges) + 1
            for p in c.specials:
                code[x == p] = o
                o += 1
            un = o
            if c.unseen:
                o += 1
            nan = np.isnan(x)
            code[nan] = o
            K = o + 1
            m = code < 0
            code[m] = un if c.unseen else base + np.searchsorted(np.array(c.edges), x[m], side="left")
            valid = ~nan & ~np.isin(x, c.specials)
            t = (
                [np.zeros(n, bool)] * 4
                if c.tails is None
                else [
                    valid & (x < c.tails[0]),
                    valid & (x < c.tails[1]),
                    valid & (x > c.tails[2]),
                    valid & (x > c.tails[3]),
                ]
            )
        else:
            x = s.to_numpy()
            names = list(c.categories) + list(c.specials)
            d = {k: i for i, k in enumerate(names)}
            code = np.array([len(names) + 1 if v is None else d.get(v, len(names)) for v in s.to_list()], dtype=int)
            K = len(names) + 2
            t = [np.zeros(len(code), bool)] * 4
        codes[c.name] = (code, K, t)
    for k, mask in keys.items():
        bins[k] = {}
        sums[k] = {}
        tails[k] = {}
        for n, (code, K, t) in codes.items():
            bins[k][n] = np.bincount(code[mask], minlength=K).astype(np.int64)
            sums[k][n] = np.rint(np.bincount(code[mask], weights=micro[mask], minlength=K)).astype(np.int64)
            tails[k][n] = np.array([(a & mask).sum() for a in t], dtype=np.int64)
    lo, hi = plan.score_range
    cells = np.bincount(np.clip(((sc - lo) / (hi - lo) * 10000).astype(int), 0, 9999), minlength=10000).astype(np.int64)
    return Counts(f.height, bins, sums, tails, cells, 0)
