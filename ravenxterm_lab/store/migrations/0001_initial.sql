-- No primary keys, indexes or upserts on the tables of events: the watermarks make rows unique.

CREATE TABLE schema_version (version INTEGER, name VARCHAR, applied TIMESTAMP);
COMMENT ON TABLE schema_version IS 'Migrations that were applied to this file.';

CREATE TABLE watermarks (session VARCHAR, next_seq UBIGINT);
COMMENT ON TABLE watermarks IS
    'Per session, the first sequence number that still waits in the spool; written with the rows.';

CREATE TABLE executions (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    model VARCHAR, fingerprint VARCHAR, task VARCHAR, device VARCHAR, runtime VARCHAR,
    settings VARCHAR, hardware VARCHAR, selection VARCHAR, external BOOLEAN,
    latency DOUBLE, throughput DOUBLE, memory_efficiency DOUBLE, success BOOLEAN,
    time_to_first_token DOUBLE, tokens_in UBIGINT, tokens_out UBIGINT, peak_memory UBIGINT,
    energy DOUBLE, quality DOUBLE, error VARCHAR, num MAP(VARCHAR, DOUBLE), extra JSON
);
COMMENT ON TABLE executions IS 'Every execution of a model, one row each.';
COMMENT ON COLUMN executions.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN executions.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN executions.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN executions.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN executions.fingerprint IS 'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN executions.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN executions.device IS 'Device it ran on, such as cpu or cuda.';
COMMENT ON COLUMN executions.runtime IS 'Runtime that ran it, such as llama_cpp.';
COMMENT ON COLUMN executions.settings IS 'Settings of the runtime in force.';
COMMENT ON COLUMN executions.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN executions.selection IS 'The selection that chose the model, if one did.';
COMMENT ON COLUMN executions.external IS 'Whether the model is not in the registry.';
COMMENT ON COLUMN executions.latency IS 'Wall time of the execution (s).';
COMMENT ON COLUMN executions.throughput IS 'Tokens or items per second (1/s).';
COMMENT ON COLUMN executions.memory_efficiency IS 'Useful bytes / peak bytes (0-1).';
COMMENT ON COLUMN executions.success IS 'Whether it succeeded.';
COMMENT ON COLUMN executions.time_to_first_token IS 'Time to the first token (s).';
COMMENT ON COLUMN executions.tokens_in IS 'Tokens of the prompt (count).';
COMMENT ON COLUMN executions.tokens_out IS 'Tokens generated (count).';
COMMENT ON COLUMN executions.peak_memory IS 'Peak memory (bytes).';
COMMENT ON COLUMN executions.energy IS 'Energy used (J).';
COMMENT ON COLUMN executions.quality IS 'Quality as measured by the caller (0-1).';
COMMENT ON COLUMN executions.error IS 'What went wrong; NULL when nothing did.';
COMMENT ON COLUMN executions.num IS 'Other numbers, by name, in units of the caller''s own.';
COMMENT ON COLUMN executions.extra IS 'Other values, by name.';

CREATE TABLE selections (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    selection VARCHAR, task VARCHAR, chosen VARCHAR, fingerprint VARCHAR, probability DOUBLE,
    policy VARCHAR, requirements JSON, preferences JSON, reason VARCHAR
);
COMMENT ON TABLE selections IS 'Every choice of a model for a task.';
COMMENT ON COLUMN selections.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN selections.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN selections.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN selections.selection IS 'Identity of the selection.';
COMMENT ON COLUMN selections.task IS 'Task that a model was chosen for.';
COMMENT ON COLUMN selections.chosen IS 'Name of the chosen model; NULL when none was left.';
COMMENT ON COLUMN selections.fingerprint IS 'Identity of the chosen model.';
COMMENT ON COLUMN selections.probability IS 'Probability with which the policy chose it (0-1).';
COMMENT ON COLUMN selections.policy IS 'Name of the policy.';
COMMENT ON COLUMN selections.requirements IS 'Requirements of the task, by name.';
COMMENT ON COLUMN selections.preferences IS 'Preferences in force, by name.';
COMMENT ON COLUMN selections.reason IS 'Why, in one sentence.';

CREATE TABLE candidates (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    selection VARCHAR, model VARCHAR, fingerprint VARCHAR, rank UINTEGER, score DOUBLE,
    feasible BOOLEAN, reason VARCHAR, parts JSON
);
COMMENT ON TABLE candidates IS 'The candidates of every selection, with the parts of their scores.';
COMMENT ON COLUMN candidates.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN candidates.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN candidates.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN candidates.selection IS 'The selection it belongs to.';
COMMENT ON COLUMN candidates.model IS 'Name of the model.';
COMMENT ON COLUMN candidates.fingerprint IS 'Identity of the model.';
COMMENT ON COLUMN candidates.rank IS 'Place in the ranking, from 1.';
COMMENT ON COLUMN candidates.score IS 'Score (no unit; higher is better).';
COMMENT ON COLUMN candidates.feasible IS 'Whether it meets every requirement.';
COMMENT ON COLUMN candidates.reason IS 'The constraint that binds, or why it ranks here.';
COMMENT ON COLUMN candidates.parts IS 'Parts of the score, by name.';

CREATE TABLE loads (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    model VARCHAR, fingerprint VARCHAR, runtime VARCHAR, device VARCHAR, settings VARCHAR,
    hardware VARCHAR, success BOOLEAN, seconds DOUBLE, memory_bytes UBIGINT,
    anonymous_bytes UBIGINT, file_bytes UBIGINT, predicted_bytes UBIGINT, buffers JSON,
    failure VARCHAR, error VARCHAR
);
COMMENT ON TABLE loads IS 'Every attempt to load a model.';
COMMENT ON COLUMN loads.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN loads.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN loads.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN loads.model IS 'Name of the model.';
COMMENT ON COLUMN loads.fingerprint IS 'Identity of the model.';
COMMENT ON COLUMN loads.runtime IS 'Runtime that loaded it.';
COMMENT ON COLUMN loads.device IS 'Device it was loaded on.';
COMMENT ON COLUMN loads.settings IS 'Settings of the load.';
COMMENT ON COLUMN loads.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN loads.success IS 'Whether it was loaded.';
COMMENT ON COLUMN loads.seconds IS 'Wall time of the load (s).';
COMMENT ON COLUMN loads.memory_bytes IS 'Memory that the load took, as measured (bytes).';
COMMENT ON COLUMN loads.anonymous_bytes IS 'Part of it that no file backs (bytes).';
COMMENT ON COLUMN loads.file_bytes IS 'Part of it that files back (bytes).';
COMMENT ON COLUMN loads.predicted_bytes IS 'What the estimator had predicted (bytes).';
COMMENT ON COLUMN loads.buffers IS 'Buffers that the runtime reported, by name (bytes).';
COMMENT ON COLUMN loads.failure IS 'Kind of failure; NULL on success.';
COMMENT ON COLUMN loads.error IS 'What went wrong; NULL on success.';

CREATE TABLE predictions (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    execution VARCHAR, model VARCHAR, fingerprint VARCHAR, task VARCHAR, quantity VARCHAR,
    tier VARCHAR, predicted DOUBLE, low DOUBLE, high DOUBLE, actual DOUBLE
);
COMMENT ON TABLE predictions IS 'What was predicted, and what came of it.';
COMMENT ON COLUMN predictions.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN predictions.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN predictions.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN predictions.execution IS 'The execution it is about, as session:seq.';
COMMENT ON COLUMN predictions.model IS 'Name of the model.';
COMMENT ON COLUMN predictions.fingerprint IS 'Identity of the model.';
COMMENT ON COLUMN predictions.task IS 'Task.';
COMMENT ON COLUMN predictions.quantity IS 'What was predicted, such as latency; its unit follows.';
COMMENT ON COLUMN predictions.tier IS 'The kind of evidence that the prediction rests on.';
COMMENT ON COLUMN predictions.predicted IS 'Predicted value (unit of the quantity).';
COMMENT ON COLUMN predictions.low IS 'Lower end of the interval (unit of the quantity).';
COMMENT ON COLUMN predictions.high IS 'Upper end of the interval (unit of the quantity).';
COMMENT ON COLUMN predictions.actual IS 'Measured value (unit of the quantity).';

CREATE TABLE hardware_samples (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    hardware VARCHAR, cpu_percent DOUBLE, memory_used UBIGINT, memory_available UBIGINT,
    process_memory UBIGINT, gpu INTEGER, gpu_percent DOUBLE, gpu_memory_used UBIGINT,
    gpu_power DOUBLE, gpu_temperature DOUBLE
);
COMMENT ON TABLE hardware_samples IS 'Samples of the load of the machine, one row per GPU.';
COMMENT ON COLUMN hardware_samples.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN hardware_samples.session IS
    'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN hardware_samples.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN hardware_samples.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN hardware_samples.cpu_percent IS 'Load of all CPU cores together (%, 0-100).';
COMMENT ON COLUMN hardware_samples.memory_used IS 'Memory in use on the machine (bytes).';
COMMENT ON COLUMN hardware_samples.memory_available IS 'Memory that may still be used (bytes).';
COMMENT ON COLUMN hardware_samples.process_memory IS 'Resident memory of the process (bytes).';
COMMENT ON COLUMN hardware_samples.gpu IS 'Index of the GPU; NULL without one.';
COMMENT ON COLUMN hardware_samples.gpu_percent IS 'Load of the GPU (%, 0-100).';
COMMENT ON COLUMN hardware_samples.gpu_memory_used IS 'GPU memory in use (bytes).';
COMMENT ON COLUMN hardware_samples.gpu_power IS 'Power drawn by the GPU (W).';
COMMENT ON COLUMN hardware_samples.gpu_temperature IS 'Temperature of the GPU (degrees Celsius).';

CREATE TABLE preference_changes (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT, field VARCHAR, old JSON, new JSON
);
COMMENT ON TABLE preference_changes IS 'Every change of a preference.';
COMMENT ON COLUMN preference_changes.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN preference_changes.session IS
    'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN preference_changes.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN preference_changes.field IS 'Name of the preference.';
COMMENT ON COLUMN preference_changes.old IS 'Value before.';
COMMENT ON COLUMN preference_changes.new IS 'Value after.';

CREATE TABLE messages (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT, level VARCHAR, subject VARCHAR, text VARCHAR
);
COMMENT ON TABLE messages IS 'Warnings and notices that were shown to a person.';
COMMENT ON COLUMN messages.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN messages.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN messages.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN messages.level IS 'Level, such as warning.';
COMMENT ON COLUMN messages.subject IS 'What it is about.';
COMMENT ON COLUMN messages.text IS 'What it says.';

CREATE TABLE feedback (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT, execution VARCHAR, quality DOUBLE, note VARCHAR
);
COMMENT ON TABLE feedback IS 'What people said of an execution afterwards.';
COMMENT ON COLUMN feedback.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN feedback.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN feedback.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN feedback.execution IS 'The execution it is about, as session:seq.';
COMMENT ON COLUMN feedback.quality IS 'Quality as judged (0-1).';
COMMENT ON COLUMN feedback.note IS 'A remark.';

CREATE TABLE models (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    fingerprint VARCHAR, name VARCHAR, model_type VARCHAR, path VARCHAR, size_bytes UBIGINT,
    quantization VARCHAR, architecture VARCHAR, parameter_count UBIGINT,
    context_length UBIGINT, task_types VARCHAR[], license VARCHAR, source VARCHAR, event VARCHAR
);
COMMENT ON TABLE models IS 'Every change of the catalogue of models.';
COMMENT ON COLUMN models.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN models.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN models.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN models.fingerprint IS 'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN models.name IS 'Name of the model in its registry.';
COMMENT ON COLUMN models.model_type IS 'Format on disk, such as gguf.';
COMMENT ON COLUMN models.path IS 'Where it lies.';
COMMENT ON COLUMN models.size_bytes IS 'Size of all its shards (bytes).';
COMMENT ON COLUMN models.quantization IS 'Type of its tensors, such as Q4_K_M.';
COMMENT ON COLUMN models.architecture IS 'Architecture, such as llama.';
COMMENT ON COLUMN models.parameter_count IS 'Parameters (count).';
COMMENT ON COLUMN models.context_length IS 'Longest context that it was trained for (tokens).';
COMMENT ON COLUMN models.task_types IS 'Tasks that it can do.';
COMMENT ON COLUMN models.license IS 'Licence as the file or its card states it.';
COMMENT ON COLUMN models.source IS 'The store of models that it was found in.';
COMMENT ON COLUMN models.event IS 'What happened: added, changed, moved or removed.';
