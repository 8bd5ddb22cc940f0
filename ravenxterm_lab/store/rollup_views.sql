-- Views for people over the rollups, and over those of whatever still waits in the spool.

CREATE OR REPLACE VIEW hourly AS
SELECT
    hour, model, fingerprint, task, device, runtime, settings, hardware, external,
    sum(runs)::BIGINT AS runs,
    sum(succeeded)::BIGINT AS succeeded,
    sum(interrupted)::BIGINT AS interrupted,
    sum(latency_sum) / nullif(sum(latency_count), 0) AS latency_mean,
    min(latency_min) AS latency_min,
    max(latency_max) AS latency_max,
    sum(throughput_sum) / nullif(sum(throughput_count), 0) AS throughput_mean,
    sum(time_to_first_token_sum) / nullif(sum(time_to_first_token_count), 0)
        AS time_to_first_token_mean,
    sum(tokens_in)::HUGEINT AS tokens_in,
    sum(tokens_out)::HUGEINT AS tokens_out,
    sum(quality_sum) / nullif(sum(quality_count), 0) AS quality_mean,
    max(peak_memory) AS peak_memory_max,
    sum(energy) AS energy,
    max(last_run) AS last_run
FROM execution_hours
GROUP BY ALL;

-- By session and number, which prune the scan of the executions; as one text they do not.
CREATE OR REPLACE VIEW judgements AS
SELECT
    e.session, e.seq, e.model, e.fingerprint, e.task,
    e.quality AS measured, j.quality AS judged, j.ts, e.ts AS executed, e.settings
FROM executions AS e
JOIN (
    SELECT
        split_part(execution, ':', 1) AS session,
        split_part(execution, ':', 2)::UBIGINT AS seq,
        arg_max(quality, ts) AS quality,
        max(ts) AS ts
    FROM feedback
    WHERE quality IS NOT NULL AND regexp_full_match(execution, '[^:]+:[1-9][0-9]{0,18}')
    GROUP BY execution
) AS j ON j.session = e.session AND j.seq = e.seq
WHERE coalesce(e.extra->>'failure', '') <> 'interrupted';

-- From the rollups: counts and means are exact. A quantile is exact as long as the values are
-- kept (fewer than 1,000 runs of model and task); above that it lies within the bucket of the
-- value at its rank, less than 2 % away from it.
CREATE OR REPLACE VIEW model_stats AS
WITH sums AS (
    SELECT
        model, task,
        sum(runs) AS runs,
        sum(succeeded) AS succeeded,
        sum(throughput_sum) AS throughput_sum,
        sum(throughput_count) AS throughput_count,
        coalesce(sum(quality_sum), 0) AS quality_sum,
        sum(quality_count) AS quality_count,
        min(latency_min) AS latency_min,
        max(latency_max) AS latency_max,
        max(peak_memory) AS peak_memory_max,
        max(last_run) AS last_run
    FROM execution_hours
    GROUP BY model, task
), corrections AS (
    SELECT
        model, task,
        sum(judged - coalesce(measured, 0)) AS quality_shift,
        count(*) FILTER (measured IS NULL) AS newly_judged
    FROM judgements
    GROUP BY model, task
), items AS (
    SELECT
        model, task, quantity,
        unnest(buckets) AS bucket, unnest(exact) AS value, unnest(counts) AS runs
    FROM execution_histograms
), counted AS (
    SELECT model, task, quantity, bucket, value, sum(runs)::BIGINT AS runs
    FROM items
    GROUP BY ALL
), ranked AS (
    SELECT
        *,
        sum(runs) OVER (
            PARTITION BY model, task, quantity ORDER BY bucket, value NULLS LAST
            ROWS UNBOUNDED PRECEDING
        ) - runs AS below,
        sum(runs) OVER (PARTITION BY model, task, quantity) - 1 AS last_rank
    FROM counted
), points AS (
    SELECT model, task, quantity, q, (q * last_rank) % 1 AS part, upper, CASE
        WHEN value IS NOT NULL THEN value
        WHEN bucket = -100000 THEN 0
        ELSE pow(1.02, bucket - 1 + (r - below + 0.5) / runs)
    END AS value
    FROM (
        SELECT
            *,
            CASE WHEN upper THEN ceil(q * last_rank) ELSE floor(q * last_rank) END AS r
        FROM ranked, (VALUES (0.5::DOUBLE), (0.95::DOUBLE)) AS quantiles(q),
            (VALUES (false), (true)) AS ends(upper)
    )
    WHERE r >= below AND r < below + runs
), quantiles AS (
    SELECT model, task, quantity, q,
        any_value(value) FILTER (NOT upper)
            + (any_value(value) FILTER (upper) - any_value(value) FILTER (NOT upper))
            * any_value(part) AS value
    FROM points
    GROUP BY model, task, quantity, q
), shapes AS (
    SELECT
        model, task,
        any_value(value) FILTER (quantity = 'latency' AND q = 0.5) AS latency_p50,
        any_value(value) FILTER (quantity = 'latency' AND q = 0.95) AS latency_p95,
        any_value(value) FILTER (quantity = 'throughput' AND q = 0.5) AS throughput_p50
    FROM quantiles
    GROUP BY model, task
)
SELECT
    s.model,
    s.task,
    s.runs::BIGINT AS runs,
    s.succeeded / s.runs AS success_rate,
    least(greatest(h.latency_p50, s.latency_min), s.latency_max) AS latency_p50,
    least(greatest(h.latency_p95, s.latency_min), s.latency_max) AS latency_p95,
    s.throughput_sum / nullif(s.throughput_count, 0) AS throughput_mean,
    h.throughput_p50,
    (s.quality_sum + coalesce(c.quality_shift, 0))
        / nullif(s.quality_count + coalesce(c.newly_judged, 0), 0) AS quality_mean,
    s.peak_memory_max,
    s.last_run
FROM sums AS s
LEFT JOIN shapes AS h ON h.model = s.model AND h.task IS NOT DISTINCT FROM s.task
LEFT JOIN corrections AS c ON c.model = s.model AND c.task IS NOT DISTINCT FROM s.task;

COMMENT ON VIEW hourly IS
    'Per hour and whatever ran where: counts, means, extremes and sums of the executions.';
COMMENT ON COLUMN hourly.hour IS 'Begin of the hour (UTC).';
COMMENT ON COLUMN hourly.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN hourly.fingerprint IS 'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN hourly.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN hourly.device IS 'Device it ran on, such as cpu or cuda.';
COMMENT ON COLUMN hourly.runtime IS 'Runtime that ran it, such as llama_cpp.';
COMMENT ON COLUMN hourly.settings IS 'Settings of the runtime in force.';
COMMENT ON COLUMN hourly.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN hourly.external IS 'Whether the model is not in the registry.';
COMMENT ON COLUMN hourly.runs IS 'Executions, interrupted ones included (count).';
COMMENT ON COLUMN hourly.succeeded IS 'Successful executions (count).';
COMMENT ON COLUMN hourly.interrupted IS
    'Executions that the person stopped (count); in no other column but runs and last_run.';
COMMENT ON COLUMN hourly.latency_mean IS 'Mean latency of the successful runs (s).';
COMMENT ON COLUMN hourly.latency_min IS 'Least latency of the successful runs (s).';
COMMENT ON COLUMN hourly.latency_max IS 'Largest latency of the successful runs (s).';
COMMENT ON COLUMN hourly.throughput_mean IS 'Mean throughput of the successful runs (1/s).';
COMMENT ON COLUMN hourly.time_to_first_token_mean IS
    'Mean time to the first token of the successful runs (s).';
COMMENT ON COLUMN hourly.tokens_in IS 'Tokens of the prompts (count).';
COMMENT ON COLUMN hourly.tokens_out IS 'Tokens generated (count).';
COMMENT ON COLUMN hourly.quality_mean IS
    'Mean quality as measured (0-1); feedback counts in model_stats.';
COMMENT ON COLUMN hourly.peak_memory_max IS 'Largest peak memory (bytes).';
COMMENT ON COLUMN hourly.energy IS 'Energy used (J).';
COMMENT ON COLUMN hourly.last_run IS 'Latest execution (UTC).';
COMMENT ON VIEW judgements IS
    'The latest feedback with a quality on each execution, interrupted ones left out.';
COMMENT ON COLUMN judgements.session IS 'The process that recorded the execution.';
COMMENT ON COLUMN judgements.seq IS 'Number of the execution within its session.';
COMMENT ON COLUMN judgements.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN judgements.fingerprint IS
    'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN judgements.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN judgements.measured IS 'Quality as measured by the caller (0-1).';
COMMENT ON COLUMN judgements.judged IS 'Quality as judged, which replaces it (0-1).';
COMMENT ON COLUMN judgements.ts IS 'When it was judged (UTC, microseconds).';
COMMENT ON COLUMN judgements.executed IS 'When the execution was recorded (UTC, microseconds).';
COMMENT ON COLUMN judgements.settings IS 'Settings of the runtime in force.';
COMMENT ON VIEW model_stats IS
    'Per model and task: runs, successes, and the latency and throughput of the successful runs.';
COMMENT ON COLUMN model_stats.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN model_stats.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN model_stats.runs IS 'Executions (count).';
COMMENT ON COLUMN model_stats.success_rate IS 'Successful executions / executions (0-1).';
COMMENT ON COLUMN model_stats.latency_p50 IS 'Median latency of the successful runs (s); from 1,000 runs on within 2 %.';
COMMENT ON COLUMN model_stats.latency_p95 IS
    '95th percentile of the latency of the successful runs (s); from 1,000 runs on within 2 %.';
COMMENT ON COLUMN model_stats.throughput_mean IS 'Mean throughput of the successful runs (1/s).';
COMMENT ON COLUMN model_stats.throughput_p50 IS 
    'Median throughput of the successful runs (1/s); from 1,000 runs on within 2 %.';
COMMENT ON COLUMN model_stats.quality_mean IS
    'Mean quality (0-1); the latest feedback on an execution replaces what was measured.';
COMMENT ON COLUMN model_stats.peak_memory_max IS 'Largest peak memory (bytes).';
COMMENT ON COLUMN model_stats.last_run IS 'Latest execution (UTC).';
