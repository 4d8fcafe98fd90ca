"""Who gets into a step: schedule(), its policies and the sequences it decides over. No torch."""
