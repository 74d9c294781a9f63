-- The index of a project. The job folders are the truth; `verglas reindex` makes this anew.
CREATE TABLE job (
    number INTEGER PRIMARY KEY,
    protocol TEXT NOT NULL,
    label TEXT NOT NULL,
    status TEXT NOT NULL,
    revision INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    environment TEXT REFERENCES environment (hash),
    created TEXT NOT NULL,
    ended TEXT NOT NULL,
    seconds REAL NOT NULL,
    stamp INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE dataset (
    number INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
    port TEXT NOT NULL,
    revision INTEGER NOT NULL,
    is_current INTEGER NOT NULL,
    kind TEXT NOT NULL,
    n_items INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    folder TEXT NOT NULL,
    traits TEXT NOT NULL
) STRICT;
CREATE INDEX dataset_job ON dataset (job);

-- direction 'in': the job reads the data set; 'out': the job made it
CREATE TABLE link (
    job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
    dataset INTEGER NOT NULL,
    port TEXT NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    position INTEGER NOT NULL,
    PRIMARY KEY (job, direction, port, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX link_dataset ON link (dataset, direction);

-- one row for each step of a job: its chunks, counted
CREATE TABLE chunk (
    job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
    step TEXT NOT NULL,
    total INTEGER NOT NULL,
    reused INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (job, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
    time TEXT NOT NULL,
    what TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX event_job ON event (job);

CREATE TABLE environment (
    hash TEXT PRIMARY KEY,
    content TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE note (
    job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
    time TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
