-- What a judgement weighs of a signal stands where the signal is found, so that it is
-- read along one index. Rows from before have none; for them the signal is read.
ALTER TABLE signals_within ADD COLUMN brief {blob};
