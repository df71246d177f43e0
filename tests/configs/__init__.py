"""Tests of the overlays' effects; a package, so that file names may repeat those of other tests."""
