-- Which version of the engine a load was tried with: another one may do what this one could not.

ALTER TABLE loads ADD COLUMN engine VARCHAR;
COMMENT ON COLUMN loads.engine IS 'Name and version of the engine; NULL where it was not recorded.';
