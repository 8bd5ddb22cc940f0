-- What maintenance did: rows that were removed on purpose, and the history of that work.

CREATE TABLE removals (
    ts TIMESTAMP, table_name VARCHAR, session VARCHAR, rows UBIGINT, reason VARCHAR
);

CREATE TABLE maintenance (
    ts TIMESTAMP, action VARCHAR, seconds DOUBLE, rows UBIGINT,
    bytes_before UBIGINT, bytes_after UBIGINT, detail VARCHAR
);

CREATE TABLE hardware_minutes (
    minute TIMESTAMP, hardware VARCHAR, gpu INTEGER, samples UBIGINT
);
