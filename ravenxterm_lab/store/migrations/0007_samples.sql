-- What a monitor sees beside the load: whose memory it is, CPU time of the processes, power, clocks.

ALTER TABLE hardware_samples ADD COLUMN cpu_power DOUBLE;
ALTER TABLE hardware_samples ADD COLUMN process_anonymous UBIGINT;
ALTER TABLE hardware_samples ADD COLUMN process_file UBIGINT;
ALTER TABLE hardware_samples ADD COLUMN process_cpu_percent DOUBLE;
ALTER TABLE hardware_samples ADD COLUMN gpu_clock DOUBLE;
COMMENT ON COLUMN hardware_samples.cpu_power IS
    'Mean power drawn by the processor packages since the sample before (W).';
COMMENT ON COLUMN hardware_samples.process_memory IS
    'Resident memory of the process and its workers (bytes).';
COMMENT ON COLUMN hardware_samples.process_anonymous IS
    'Part of process_memory that belongs to no file (bytes).';
COMMENT ON COLUMN hardware_samples.process_file IS
    'Part of process_memory that is mapped from files or shared (bytes).';
COMMENT ON COLUMN hardware_samples.process_cpu_percent IS
    'CPU time of the process and its workers (%, 100 is one CPU).';
COMMENT ON COLUMN hardware_samples.gpu_clock IS 'Clock of the GPU (MHz).';

ALTER TABLE hardware_minutes ADD COLUMN cpu_power DOUBLE;
ALTER TABLE hardware_minutes ADD COLUMN process_anonymous UBIGINT;
ALTER TABLE hardware_minutes ADD COLUMN process_file UBIGINT;
ALTER TABLE hardware_minutes ADD COLUMN process_cpu_percent DOUBLE;
ALTER TABLE hardware_minutes ADD COLUMN gpu_clock DOUBLE;
COMMENT ON COLUMN hardware_minutes.cpu_power IS
    'Mean power drawn by the processor packages (W).';
COMMENT ON COLUMN hardware_minutes.process_anonymous IS
    'Largest memory of the process and its workers that belongs to no file (bytes).';
COMMENT ON COLUMN hardware_minutes.process_file IS
    'Largest memory of the process and its workers that is mapped from files or shared (bytes).';
COMMENT ON COLUMN hardware_minutes.process_cpu_percent IS
    'Mean CPU time of the process and its workers (%, 100 is one CPU).';
COMMENT ON COLUMN hardware_minutes.gpu_clock IS 'Mean clock of the GPU (MHz).';
