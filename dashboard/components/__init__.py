"""What pages are made of: a page, a chart, a table, links. Each is a function."""
