-- Sums and histograms of the executions, written with the rows in the same transaction: what the
-- selector and the views ask for all the time is then no scan of every row. Each pass of the
-- ingest appends partial rows, and merges them now and then; what holds is always their sum.
-- The code that writes them is store/rollups.py; the backfill below says the same in SQL.

CREATE TABLE execution_hours (
    hour TIMESTAMP,
    model VARCHAR, fingerprint VARCHAR, task VARCHAR, device VARCHAR, runtime VARCHAR,
    settings VARCHAR, hardware VARCHAR, external BOOLEAN,
    merged BOOLEAN,
    runs UBIGINT, succeeded UBIGINT, interrupted UBIGINT,
    latency_count UBIGINT, latency_sum DOUBLE, latency_min DOUBLE, latency_max DOUBLE,
    throughput_count UBIGINT, throughput_sum DOUBLE,
    ln_throughput_count UBIGINT, ln_throughput_sum DOUBLE,
    ln_work_count UBIGINT, ln_work_sum DOUBLE,
    time_to_first_token_count UBIGINT, time_to_first_token_sum DOUBLE,
    quality_count UBIGINT, quality_sum DOUBLE,
    tokens_in DOUBLE, tokens_out DOUBLE, energy DOUBLE,
    peak_memory UBIGINT, peak_memory_succeeded UBIGINT,
    last_run TIMESTAMP
);
COMMENT ON TABLE execution_hours IS
    'Hourly sums of the executions, in partial rows that add up; the view hourly adds them up.';
COMMENT ON COLUMN execution_hours.hour IS 'Begin of the hour (UTC).';
COMMENT ON COLUMN execution_hours.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN execution_hours.fingerprint IS
    'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN execution_hours.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN execution_hours.device IS 'Device it ran on, such as cpu or cuda.';
COMMENT ON COLUMN execution_hours.runtime IS 'Runtime that ran it, such as llama_cpp.';
COMMENT ON COLUMN execution_hours.settings IS 'Settings of the runtime in force.';
COMMENT ON COLUMN execution_hours.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN execution_hours.external IS 'Whether the model is not in the registry.';
COMMENT ON COLUMN execution_hours.merged IS
    'False for what one pass of the ingest wrote, true once such rows were added up.';
COMMENT ON COLUMN execution_hours.runs IS 'Executions, interrupted ones included (count).';
COMMENT ON COLUMN execution_hours.succeeded IS
    'Successful executions (count). What follows below leaves interrupted ones out.';
COMMENT ON COLUMN execution_hours.interrupted IS
    'Executions that the person stopped (count): no evidence about the model.';
COMMENT ON COLUMN execution_hours.latency_count IS
    'Successful executions with a latency (count).';
COMMENT ON COLUMN execution_hours.latency_sum IS 'Sum of their latencies (s).';
COMMENT ON COLUMN execution_hours.latency_min IS 'Least of their latencies (s).';
COMMENT ON COLUMN execution_hours.latency_max IS 'Largest of their latencies (s).';
COMMENT ON COLUMN execution_hours.throughput_count IS
    'Successful executions with a throughput (count).';
COMMENT ON COLUMN execution_hours.throughput_sum IS 'Sum of their throughputs (1/s).';
COMMENT ON COLUMN execution_hours.ln_throughput_count IS
    'Successful executions with a throughput above zero (count).';
COMMENT ON COLUMN execution_hours.ln_throughput_sum IS
    'Sum of the natural logarithms of their throughputs in 1/s (no unit).';
COMMENT ON COLUMN execution_hours.ln_work_count IS
    'Successful executions with known output (count): tokens_out, or latency times throughput.';
COMMENT ON COLUMN execution_hours.ln_work_sum IS
    'Sum of the natural logarithms of their outputs in tokens or items (no unit).';
COMMENT ON COLUMN execution_hours.time_to_first_token_count IS
    'Successful executions with a time to the first token (count).';
COMMENT ON COLUMN execution_hours.time_to_first_token_sum IS
    'Sum of their times to the first token (s).';
COMMENT ON COLUMN execution_hours.quality_count IS
    'Executions, failed ones too, with a quality of their own (count); feedback is apart.';
COMMENT ON COLUMN execution_hours.quality_sum IS 'Sum of their qualities (0-1 each).';
COMMENT ON COLUMN execution_hours.tokens_in IS 'Tokens of the prompts (count).';
COMMENT ON COLUMN execution_hours.tokens_out IS 'Tokens generated (count).';
COMMENT ON COLUMN execution_hours.energy IS 'Energy used (J).';
COMMENT ON COLUMN execution_hours.peak_memory IS
    'Largest peak memory, of failed executions too (bytes).';
COMMENT ON COLUMN execution_hours.peak_memory_succeeded IS
    'Largest peak memory of the successful executions (bytes).';
COMMENT ON COLUMN execution_hours.last_run IS
    'Latest execution, interrupted ones included (UTC).';

CREATE TABLE execution_histograms (
    day TIMESTAMP,
    model VARCHAR, fingerprint VARCHAR, task VARCHAR, hardware VARCHAR,
    quantity VARCHAR, bucket INTEGER, value DOUBLE,
    merged BOOLEAN,
    runs UBIGINT
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
COMMENT ON COLUMN execution_histograms.bucket IS
    'Bucket b holds values above 1.02^(b-1) up to 1.02^b (s, or 1/s); -100000 holds zero.';
COMMENT ON COLUMN execution_histograms.value IS
    'The value itself (s, or 1/s) while model and task have few runs; NULL where only its bucket is kept.';
COMMENT ON COLUMN execution_histograms.merged IS
    'False for what one pass of the ingest wrote, true once such rows were added up.';
COMMENT ON COLUMN execution_histograms.runs IS 'Executions in the bucket, or of the value (count).';

INSERT INTO execution_hours BY NAME
WITH seen AS (
    SELECT *, coalesce(extra->>'failure', '') = 'interrupted' AS stopped FROM executions
), judged AS (
    SELECT
        *, success AND NOT stopped AS good,
        coalesce(tokens_out::DOUBLE, latency * throughput) AS work
    FROM seen
)
SELECT
    date_trunc('hour', ts) AS hour,
    model, fingerprint, task, device, runtime, settings, hardware, external,
    true AS merged,
    count(*) AS runs,
    count(*) FILTER (good) AS succeeded,
    count(*) FILTER (stopped) AS interrupted,
    count(latency) FILTER (good) AS latency_count,
    sum(latency) FILTER (good) AS latency_sum,
    min(latency) FILTER (good) AS latency_min,
    max(latency) FILTER (good) AS latency_max,
    count(throughput) FILTER (good) AS throughput_count,
    sum(throughput) FILTER (good) AS throughput_sum,
    count(*) FILTER (good AND throughput > 0) AS ln_throughput_count,
    sum(CASE WHEN good AND throughput > 0 THEN ln(throughput) END) AS ln_throughput_sum,
    count(*) FILTER (good AND work > 0) AS ln_work_count,
    sum(CASE WHEN good AND work > 0 THEN ln(work) END) AS ln_work_sum,
    count(time_to_first_token) FILTER (good) AS time_to_first_token_count,
    sum(time_to_first_token) FILTER (good) AS time_to_first_token_sum,
    count(quality) FILTER (NOT stopped) AS quality_count,
    sum(quality) FILTER (NOT stopped) AS quality_sum,
    sum(tokens_in::DOUBLE) FILTER (NOT stopped) AS tokens_in,
    sum(tokens_out::DOUBLE) FILTER (NOT stopped) AS tokens_out,
    sum(energy) FILTER (NOT stopped) AS energy,
    max(peak_memory) FILTER (NOT stopped) AS peak_memory,
    max(peak_memory) FILTER (good) AS peak_memory_succeeded,
    max(ts) AS last_run
FROM judged
GROUP BY ALL;

INSERT INTO execution_histograms BY NAME
WITH measured AS NOT MATERIALIZED (
    UNPIVOT (
        SELECT
            date_trunc('day', ts)::TIMESTAMP AS day,
            model, fingerprint, task, hardware, latency, throughput
        FROM executions
        WHERE success AND coalesce(extra->>'failure', '') <> 'interrupted'
    ) ON latency, throughput INTO NAME quantity VALUE value
), totals AS (
    SELECT model AS m, task AS t, quantity AS q, count(*) < 1000 AS few FROM measured GROUP BY ALL
)
SELECT
    day, model, fingerprint, task, hardware, quantity,
    CASE WHEN value > 0 THEN ceil(ln(value) / ln(1.02))::INTEGER ELSE -100000 END AS bucket,
    CASE WHEN few THEN value END AS value,
    true AS merged,
    count(*) AS runs
FROM measured JOIN totals
    ON m IS NOT DISTINCT FROM model AND t IS NOT DISTINCT FROM task AND q = quantity
GROUP BY ALL;
