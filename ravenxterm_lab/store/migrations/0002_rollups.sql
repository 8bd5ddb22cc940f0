-- Hourly sums and histograms of the executions: written with the rows, in the same transaction.
-- Each pass of the ingest appends partial rows; their sum is what holds.

CREATE TABLE execution_hours (
    hour TIMESTAMP,
    model VARCHAR, fingerprint VARCHAR, task VARCHAR, device VARCHAR, runtime VARCHAR,
    settings VARCHAR, hardware VARCHAR, external BOOLEAN,
    runs UBIGINT
);

CREATE TABLE latency_histograms (
    hour TIMESTAMP,
    model VARCHAR, fingerprint VARCHAR, task VARCHAR, hardware VARCHAR,
    bucket INTEGER, runs UBIGINT
);
