"""A Dagster asset graph as Airflow DAGs: a plan is made where Dagster is, and rendered where Airflow is."""
