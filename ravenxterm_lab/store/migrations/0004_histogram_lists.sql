-- One row for each histogram instead of one for each bucket: a pass of the ingest writes, and a
-- query reads, a hundredth of the rows.

ALTER TABLE execution_histograms RENAME TO single_buckets;

CREATE TABLE execution_histograms (
    day TIMESTAMP,
    model VARCHAR, fingerprint VARCHAR, task VARCHAR, hardware VARCHAR,
    quantity VARCHAR,
    merged BOOLEAN,
    runs UBIGINT,
    buckets INTEGER[], exact DOUBLE[], counts UBIGINT[]
);
COMMENT ON TABLE execution_histograms IS
    'Daily histograms of the successful executions, in partial rows that add up.';
COMMENT ON COLUMN execution_histograms.day IS 'Begin of the day (UTC).';
COMMENT ON COLUMN execution_histograms.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN execution_histograms.fingerprint IS
    'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN execution_histograms.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN execution_histograms.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN execution_histograms.quantity IS 'What was measured: latency or throughput.';
COMMENT ON COLUMN execution_histograms.merged IS
    'False for what one pass of the ingest wrote, true once such rows were added up.';
COMMENT ON COLUMN execution_histograms.runs IS 'Executions in the histogram (count).';
COMMENT ON COLUMN execution_histograms.buckets IS
    'Bucket b holds values above 1.02^(b-1) up to 1.02^b (s, or 1/s); -100000 holds zero.';
COMMENT ON COLUMN execution_histograms.exact IS
    'The values themselves (s, or 1/s) while model and task have few runs, beside their buckets; NULL where only buckets are kept.';
COMMENT ON COLUMN execution_histograms.counts IS
    'Executions in each bucket, or of each value (count), in the same order.';

INSERT INTO execution_histograms BY NAME
SELECT
    day, model, fingerprint, task, hardware, quantity,
    true AS merged,
    sum(n)::UBIGINT AS runs,
    list(bucket ORDER BY bucket, value) AS buckets,
    CASE WHEN count(value) > 0 THEN list(value ORDER BY bucket, value) END AS exact,
    list(n ORDER BY bucket, value) AS counts
FROM (
    SELECT
        day, model, fingerprint, task, hardware, quantity, bucket, value,
        sum(runs)::UBIGINT AS n
    FROM single_buckets
    GROUP BY ALL
)
GROUP BY ALL;

DROP TABLE single_buckets;
