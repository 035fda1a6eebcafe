"""Pipeline stage tabulate: records to tables, figures and the report page. It joins and rounds; it measures nothing."""
