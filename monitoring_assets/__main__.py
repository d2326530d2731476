"""`python -m monitoring_assets` is `scorewatch`."""

from monitoring_assets.cli import main

main()
