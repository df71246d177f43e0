"""Report pages, tables and the look of figures."""
