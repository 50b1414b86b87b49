"""What runs by the clock."""

import dagster as dg

from assets.maintenance import maintenance

hourly_maintenance = dg.ScheduleDefinition(
    job=maintenance, cron_schedule="17 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
