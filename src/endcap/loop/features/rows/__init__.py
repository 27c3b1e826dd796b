"""Feature rows: what a view's definition makes of its tables, as one SELECT of keys, times and features. Nothing here is kept or joined."""
