-- Views for people, over the tables of events and whatever still waits in the spool.

CREATE OR REPLACE VIEW last_24h AS
SELECT * FROM executions WHERE ts >= (now() AT TIME ZONE 'UTC') - INTERVAL 24 HOUR;

CREATE OR REPLACE VIEW model_stats AS
WITH judged AS (
    SELECT execution, arg_max(quality, ts) AS quality
    FROM feedback WHERE quality IS NOT NULL GROUP BY execution
)
SELECT
    e.model,
    e.task,
    count(*) AS runs,
    avg(e.success::INTEGER) AS success_rate,
    quantile_cont(e.latency, 0.5) FILTER (WHERE e.success) AS latency_p50,
    quantile_cont(e.latency, 0.95) FILTER (WHERE e.success) AS latency_p95,
    avg(e.throughput) FILTER (WHERE e.success) AS throughput_mean,
    quantile_cont(e.throughput, 0.5) FILTER (WHERE e.success) AS throughput_p50,
    avg(coalesce(j.quality, e.quality)) AS quality_mean,
    max(e.peak_memory) AS peak_memory_max,
    max(e.ts) AS last_run
FROM executions AS e
LEFT JOIN judged AS j ON j.execution = e.session || ':' || e.seq
GROUP BY e.model, e.task;

CREATE OR REPLACE VIEW hardware AS
SELECT *, 1::UBIGINT AS samples FROM hardware_samples
UNION ALL BY NAME
SELECT
    minute AS ts, session, hardware, cpu_percent, memory_used, memory_available, process_memory,
    gpu, gpu_percent, gpu_memory_used, gpu_power, gpu_temperature, samples
FROM hardware_minutes;

CREATE OR REPLACE VIEW catalogue AS
SELECT * FROM (
    SELECT * FROM models
    QUALIFY row_number() OVER (
        PARTITION BY coalesce(fingerprint, name) ORDER BY ts DESC, session DESC, seq DESC
    ) = 1
) WHERE event IS DISTINCT FROM 'removed';

COMMENT ON VIEW last_24h IS 'Executions recorded in the last 24 hours; columns as in executions.';
COMMENT ON VIEW model_stats IS
    'Per model and task: runs, successes, and the latency and throughput of the successful runs.';
COMMENT ON COLUMN model_stats.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN model_stats.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN model_stats.runs IS 'Executions (count).';
COMMENT ON COLUMN model_stats.success_rate IS 'Successful executions / executions (0-1).';
COMMENT ON COLUMN model_stats.latency_p50 IS 'Median latency of the successful runs (s).';
COMMENT ON COLUMN model_stats.latency_p95 IS '95th percentile of the latency of the successful runs (s).';
COMMENT ON COLUMN model_stats.throughput_mean IS 'Mean throughput of the successful runs (1/s).';
COMMENT ON COLUMN model_stats.throughput_p50 IS 'Median throughput of the successful runs (1/s).';
COMMENT ON COLUMN model_stats.quality_mean IS
    'Mean quality (0-1); the latest feedback on an execution replaces what was measured.';
COMMENT ON COLUMN model_stats.peak_memory_max IS 'Largest peak memory (bytes).';
COMMENT ON COLUMN model_stats.last_run IS 'Latest execution (UTC).';
COMMENT ON VIEW hardware IS
    'The load of the machine: every sample of the last 14 days, before that a row per minute.';
COMMENT ON COLUMN hardware.samples IS
    'Samples that the row stands for (count); of several it holds the means of the loads, the least memory_available and the largest process_memory.';
COMMENT ON VIEW catalogue IS
    'The latest state of every model that was not removed; columns as in models.';
