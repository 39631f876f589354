"""What users write: the file, its rules, and the configurations it spans. Knows no engine, no cluster, no study."""
