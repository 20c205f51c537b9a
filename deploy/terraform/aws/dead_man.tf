# The third dead-man, inside AWS: a scheduled action that sets a group to zero, again and again. The keeper moves its start into the future at
# each renewal; from the moment it stops doing so, whatever the reason, nothing of the group runs longer than the start it wrote last.

resource "aws_autoscaling_schedule" "dead_man" {
  for_each               = aws_autoscaling_group.this
  scheduled_action_name  = "dead-man"
  autoscaling_group_name = each.value.name
  min_size               = 0
  desired_capacity       = 0
  max_size               = -1 # stays as it is
  recurrence             = "*/${var.dead_man_minutes} * * * *"

  lifecycle {
    ignore_changes = [start_time]
  }
}
