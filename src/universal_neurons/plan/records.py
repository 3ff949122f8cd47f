"""What Snakemake remembers of a run's files lies with them, so that it goes where they go.

Snakemake runs a job again whose params or inputs are not those that its files were made with. It
remembers these in `.snakemake/metadata` of the working directory. Of results that were copied
without that folder it knows nothing, and plans nothing whatever changes. So the records of a run's
files are written to ``results/<run>/records`` too, as Snakemake writes them, and read from there
first: they are of these very files, while those of the working directory may be of others that lay
there before.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


def keep_records(results: str) -> None:
    """Let this process's Snakemake keep its records of a run's files with the run from now on.

    Its own are kept as ever, and hold where there are none with the run, as in results of earlier
    versions. Those in a database (``--persistence-backend db``) are left alone.

    Parameters
    ----------
    results
        Folder of the run, as paths of its files begin.
    """
    # Whoever calls this has read it already; what imports all modules of the package does without.
    import snakemake.workflow

    folder, start = os.path.join(results, "records"), f"{results}/"
    # Snakemake makes one object of the class that has this name, when it has read all rules.
    Own: Any = snakemake.workflow.FilePersistence

    class WithResults(Own):
        def _of_run(self, subject: str, id: str) -> bool:
            return subject == self._metadata_path and id.startswith(start)

        def _io_read(self, subject: str, id: str) -> dict[str, Any]:
            # A run that was planned only has no folder yet.
            own = self._of_run(subject, id) and os.path.isdir(folder)
            return (own and super()._io_read(folder, id)) or super()._io_read(subject, id)

        def _io_write(self, subject: str, json_value: Any, id: str, *mode: int) -> None:
            super()._io_write(subject, json_value, id, *mode)
            if self._of_run(subject, id):
                try:
                    super()._io_write(folder, json_value, id, *mode)
                except OSError:
                    # On a full disk Snakemake's own holds; half of one would not.
                    with suppress(OSError):
                        super()._io_delete(folder, id)

        def _io_delete(self, subject: str, id: str) -> bool:
            if self._of_run(subject, id):
                super()._io_delete(folder, id)
            return super()._io_delete(subject, id)

        def _mark_incomplete(self, key: str, external_jobid: str | None) -> None:
            # A job that is killed may leave a new file, which the old record says nothing of.
            super()._mark_incomplete(key, external_jobid)
            super()._io_delete(folder, key)

    snakemake.workflow.FilePersistence = WithResults
