-- What a prediction was made for and from, so that its errors can be told apart by engine and
-- device, and so that it can be learned from.

ALTER TABLE predictions ADD COLUMN engine VARCHAR;
ALTER TABLE predictions ADD COLUMN device VARCHAR;
ALTER TABLE predictions ADD COLUMN settings VARCHAR;
ALTER TABLE predictions ADD COLUMN hardware VARCHAR;
ALTER TABLE predictions ADD COLUMN level DOUBLE;
ALTER TABLE predictions ADD COLUMN spread DOUBLE;
ALTER TABLE predictions ADD COLUMN verdict VARCHAR;
ALTER TABLE predictions ADD COLUMN failure VARCHAR;
ALTER TABLE predictions ADD COLUMN basis JSON;
COMMENT ON COLUMN predictions.quantity IS
    'What was predicted: peak_memory (bytes), load_seconds and time_to_first_token (s), throughput (1/s).';
COMMENT ON COLUMN predictions.tier IS
    'The finest evidence that it rests on: measured, interpolated, scaled, device, roofline, formula or none.';
COMMENT ON COLUMN predictions.actual IS
    'Measured value (unit of the quantity); NULL where a failure left nothing to measure.';
COMMENT ON COLUMN predictions.engine IS 'Runtime that it was made for.';
COMMENT ON COLUMN predictions.device IS 'Device that it was made for, such as cpu or cuda.';
COMMENT ON COLUMN predictions.settings IS 'Settings of the load that it was made for.';
COMMENT ON COLUMN predictions.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN predictions.level IS 'Share of outcomes that its interval shall hold (0-1).';
COMMENT ON COLUMN predictions.spread IS
    'Standard deviation of ln(actual / predicted) that the predictor stated, on the side of the outcome.';
COMMENT ON COLUMN predictions.verdict IS
    'Of a load, whether it was said to fit: fits, pages, cannot or unknown.';
COMMENT ON COLUMN predictions.failure IS 'Kind of failure of the load; NULL where there was none.';
COMMENT ON COLUMN predictions.basis IS
    'What it was made from: seconds by part of the formula, and the keys of the cell.';
