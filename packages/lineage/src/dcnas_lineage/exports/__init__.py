"""
What is known of a project's runs, in the formats of others: Workflow Run RO-Crate, in-toto with SLSA provenance, PROV-JSON.

All three are plain JSON, so they are written here by hand: the formats' libraries would be three dependencies of whoever makes a table, two
of them with an RDF stack or a protobuf runtime behind them, while a document is some dictionaries. The tests read each document back with
the format's own library.

Each export says what the records of the runs say (`dcnas_schema.run_record`), and is refused where they contradict dvc.lock or the files.
The same project state gives the same bytes.
"""
