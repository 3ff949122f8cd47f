"""The explorer: a folder of static pages in which the neurons of a run can be looked at."""
