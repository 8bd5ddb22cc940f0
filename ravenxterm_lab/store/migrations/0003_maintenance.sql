-- What maintenance did: rows that were removed on purpose, the history of that work, and what
-- is kept of the samples of the hardware that were removed.

CREATE TABLE removals (
    ts TIMESTAMP, table_name VARCHAR, session VARCHAR, rows UBIGINT,
    first_seq UBIGINT, last_seq UBIGINT, reason VARCHAR
);
COMMENT ON TABLE removals IS
    'Rows that were removed on purpose, written in the transaction that removed them.';
COMMENT ON COLUMN removals.ts IS 'When they were removed (UTC, microseconds).';
COMMENT ON COLUMN removals.table_name IS 'The table that they were removed from.';
COMMENT ON COLUMN removals.session IS 'The process that had recorded them.';
COMMENT ON COLUMN removals.rows IS 'Rows removed (count).';
COMMENT ON COLUMN removals.first_seq IS 'Least number of a removed row within its session.';
COMMENT ON COLUMN removals.last_seq IS 'Largest number of a removed row within its session.';
COMMENT ON COLUMN removals.reason IS 'Why, such as the file that they were exported to.';

CREATE TABLE maintenance (
    ts TIMESTAMP, action VARCHAR, seconds DOUBLE, rows UBIGINT,
    bytes_before UBIGINT, bytes_after UBIGINT, detail VARCHAR
);
COMMENT ON TABLE maintenance IS 'Compactions and exports of this file.';
COMMENT ON COLUMN maintenance.ts IS 'When it ended (UTC, microseconds).';
COMMENT ON COLUMN maintenance.action IS 'What was done: compaction or export.';
COMMENT ON COLUMN maintenance.seconds IS 'Wall time that it took (s).';
COMMENT ON COLUMN maintenance.rows IS 'Rows that it handled (count).';
COMMENT ON COLUMN maintenance.bytes_before IS 'Size of the file before (bytes).';
COMMENT ON COLUMN maintenance.bytes_after IS 'Size of what was written (bytes).';
COMMENT ON COLUMN maintenance.detail IS 'More about it, in words.';

CREATE TABLE hardware_minutes (
    minute TIMESTAMP, session VARCHAR, hardware VARCHAR, gpu INTEGER, samples UBIGINT,
    cpu_percent DOUBLE, cpu_percent_max DOUBLE,
    memory_used UBIGINT, memory_used_max UBIGINT, memory_available UBIGINT,
    process_memory UBIGINT,
    gpu_percent DOUBLE, gpu_percent_max DOUBLE,
    gpu_memory_used UBIGINT, gpu_memory_used_max UBIGINT,
    gpu_power DOUBLE, gpu_power_max DOUBLE,
    gpu_temperature DOUBLE, gpu_temperature_max DOUBLE
);
COMMENT ON TABLE hardware_minutes IS
    'Samples of the hardware older than 14 days, by minute, process and GPU.';
COMMENT ON COLUMN hardware_minutes.minute IS 'Begin of the minute (UTC).';
COMMENT ON COLUMN hardware_minutes.session IS 'The recording process.';
COMMENT ON COLUMN hardware_minutes.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN hardware_minutes.gpu IS 'Index of the GPU; NULL without one.';
COMMENT ON COLUMN hardware_minutes.samples IS 'Samples that the row stands for (count).';
COMMENT ON COLUMN hardware_minutes.cpu_percent IS
    'Mean load of all CPU cores together (%, 0-100).';
COMMENT ON COLUMN hardware_minutes.cpu_percent_max IS
    'Largest load of all CPU cores together (%, 0-100).';
COMMENT ON COLUMN hardware_minutes.memory_used IS 'Mean memory in use on the machine (bytes).';
COMMENT ON COLUMN hardware_minutes.memory_used_max IS
    'Largest memory in use on the machine (bytes).';
COMMENT ON COLUMN hardware_minutes.memory_available IS
    'Least memory that could still be used (bytes).';
COMMENT ON COLUMN hardware_minutes.process_memory IS
    'Largest resident memory of the process (bytes).';
COMMENT ON COLUMN hardware_minutes.gpu_percent IS 'Mean load of the GPU (%, 0-100).';
COMMENT ON COLUMN hardware_minutes.gpu_percent_max IS 'Largest load of the GPU (%, 0-100).';
COMMENT ON COLUMN hardware_minutes.gpu_memory_used IS 'Mean GPU memory in use (bytes).';
COMMENT ON COLUMN hardware_minutes.gpu_memory_used_max IS 'Largest GPU memory in use (bytes).';
COMMENT ON COLUMN hardware_minutes.gpu_power IS 'Mean power drawn by the GPU (W).';
COMMENT ON COLUMN hardware_minutes.gpu_power_max IS 'Largest power drawn by the GPU (W).';
COMMENT ON COLUMN hardware_minutes.gpu_temperature IS
    'Mean temperature of the GPU (degrees Celsius).';
COMMENT ON COLUMN hardware_minutes.gpu_temperature_max IS
    'Largest temperature of the GPU (degrees Celsius).';
