"""When schedules fire: cron expressions in a zone, intervals, and what becomes of missed times. Pure."""
