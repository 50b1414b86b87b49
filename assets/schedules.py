"""What runs by the clock."""

import dagster as dg

from assets.maintenance import audit, maintenance

hourly_maintenance = dg.ScheduleDefinition(
    job=maintenance, cron_schedule="17 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)

nightly_audit = dg.ScheduleDefinition(
    job=audit, cron_schedule="40 2 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
