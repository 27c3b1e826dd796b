"""Back ends, one file each; each passes the contract suites of ``endcap.testing``."""
