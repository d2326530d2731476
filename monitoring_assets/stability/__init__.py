"""Stability of a population: frozen bins, PSI and CSI, evidence, windows and the verdict. Pure numpy and scipy."""
