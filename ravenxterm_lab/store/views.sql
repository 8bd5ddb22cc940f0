-- Views for people, over the tables of events and whatever still waits in the spool.

CREATE OR REPLACE VIEW last_24h AS
SELECT * FROM executions WHERE ts >= (now() AT TIME ZONE 'UTC') - INTERVAL 24 HOUR;

CREATE OR REPLACE VIEW hardware AS
SELECT *, 1::UBIGINT AS samples FROM hardware_samples
UNION ALL BY NAME
SELECT
    minute AS ts, session, hardware, cpu_percent, memory_used, memory_available, process_memory,
    gpu, gpu_percent, gpu_memory_used, gpu_power, gpu_temperature, cpu_power, process_anonymous,
    process_file, process_cpu_percent, gpu_clock, samples
FROM hardware_minutes;

CREATE OR REPLACE VIEW catalogue AS
SELECT * FROM (
    SELECT * FROM models
    QUALIFY row_number() OVER (
        PARTITION BY coalesce(fingerprint, name) ORDER BY ts DESC, session DESC, seq DESC
    ) = 1
) WHERE event IS DISTINCT FROM 'removed';

CREATE OR REPLACE VIEW scanned AS
SELECT * FROM (
    SELECT * FROM scans
    QUALIFY row_number() OVER (PARTITION BY path ORDER BY ts DESC, session DESC, seq DESC) = 1
) WHERE signature IS DISTINCT FROM '';

CREATE OR REPLACE VIEW calibration AS
SELECT
    quantity, tier, engine, device,
    count(*) AS predictions,
    exp(median(abs(ln(actual / predicted)))) - 1 AS median_error,
    exp(median(ln(actual / predicted))) - 1 AS bias,
    avg((actual BETWEEN low AND high)::INTEGER) AS coverage,
    avg(level) AS level,
    count(*) FILTER (failure IS NOT NULL) AS failures,
    count(*) FILTER (failure = 'out_of_memory' AND verdict = 'fits') AS wrongly_said_to_fit,
    max(ts) AS last_prediction
FROM (
    -- No REPLACE of two columns: DuckDB forgets their order, and a compaction compares texts.
    SELECT
        quantity, tier, engine, device, low, high, level, failure, verdict, ts,
        CASE WHEN actual > 0 THEN actual END AS actual,
        CASE WHEN predicted > 0 THEN predicted END AS predicted
    FROM predictions
)
GROUP BY quantity, tier, engine, device;

COMMENT ON VIEW last_24h IS 'Executions recorded in the last 24 hours; columns as in executions.';
COMMENT ON VIEW hardware IS
    'The load of the machine: every sample of the last 14 days, before that a row per minute.';
COMMENT ON COLUMN hardware.samples IS
    'Samples that the row stands for (count); of several it holds the means of the loads, the least memory_available and the largest memory of the process.';
COMMENT ON VIEW catalogue IS
    'The latest state of every model that was not removed; columns as in models.';
COMMENT ON VIEW scanned IS
    'The latest reading of the files of each model that is still there; columns as in scans.';
COMMENT ON VIEW calibration IS
    'How predictions came out, by quantity, tier of evidence, engine and device.';
COMMENT ON COLUMN calibration.quantity IS 'What was predicted, such as throughput.';
COMMENT ON COLUMN calibration.tier IS 'The finest evidence that the predictions rest on.';
COMMENT ON COLUMN calibration.engine IS 'Runtime that they were made for.';
COMMENT ON COLUMN calibration.device IS 'Device that they were made for.';
COMMENT ON COLUMN calibration.predictions IS 'Predictions that a load or a run followed (count).';
COMMENT ON COLUMN calibration.median_error IS
    'exp(median |ln(actual / predicted)|) - 1: half of them are off by less (0.1 = 10 %).';
COMMENT ON COLUMN calibration.bias IS
    'exp(median ln(actual / predicted)) - 1: above 0, more was measured than predicted.';
COMMENT ON COLUMN calibration.coverage IS 'Outcomes within their interval / outcomes (0-1).';
COMMENT ON COLUMN calibration.level IS 'What the coverage shall be (0-1).';
COMMENT ON COLUMN calibration.failures IS 'Loads that failed (count).';
COMMENT ON COLUMN calibration.wrongly_said_to_fit IS
    'Loads that were said to fit and ran out of memory (count).';
COMMENT ON COLUMN calibration.last_prediction IS 'When the latest was recorded (UTC).';
