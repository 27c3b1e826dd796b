"""The methods that may become a version: one file each, all of the loop's protocol ``Candidate`` over panels."""
