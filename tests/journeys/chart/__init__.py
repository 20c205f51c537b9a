"""The chart on a real API server (1.20), and real keepers under the ServiceAccount and Role that it made."""
