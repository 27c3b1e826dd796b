"""Regular panels: series by days or hours as dense arrays, the kernels over them, and what may be seen of them at which origin."""
