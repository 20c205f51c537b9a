variable "stack" {
  description = "Name of the stack. Everything is called after it, and the keeper finds it by this name and the region."
  type        = string
  default     = "lamplighter"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}[a-z0-9]$", var.stack))
    error_message = "The stack's name has 2 to 32 small letters, digits and dashes, and begins with a letter."
  }
}

variable "installation" {
  description = "Id of the Lamplighter installation that owns the stack. The keeper touches nothing that carries another one."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9._:-]{1,128}$", var.installation))
    error_message = "The installation's id has 1 to 128 letters, digits and . _ : -"
  }
}

variable "region" {
  description = "The AWS region, the same as the provider's."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region looks like eu-central-1."
  }
}

variable "pools" {
  description = <<-EOT
    The pools of GPU machines, by name. Of each: `instance_types`, in order of preference; `zones` (empty: all that offer one of the types);
    `max` machines in each of its two groups (replicas and one more, because a new one runs beside the one that it replaces); `allocation`, how
    AWS chooses on the spot market; `image` (`stock`: AWS's Deep Learning AMI; `baked`: the one that SSM `/<stack>/ami/<pool>` names; or an
    AMI's id) and `ami`, the id that `image` stands for, where it is known already; `disk_gb` and `disk_throughput` (MB/s) of a node's own disk;
    `model_storage` (`volume`, `snapshot`, `s3` or `none`); `max_price`, USD an hour on the spot market; and in seconds `boot_deadline`, until
    a node must have been leased once, `lease`, which keeps it alive, and `drain`, for running answers once the lease has run out.
  EOT
  type = map(object({
    instance_types  = list(string)
    zones           = optional(list(string), [])
    max             = optional(number, 2)
    allocation      = optional(string, "price-capacity-optimized")
    image           = optional(string, "")
    ami             = optional(string, "")
    disk_gb         = optional(number, 100)
    disk_throughput = optional(number, 125)
    model_storage = optional(object({
      kind       = optional(string, "volume")
      size_gb    = optional(number, 100)
      throughput = optional(number, 125)
    }), {})
    boot_deadline = optional(number, 900)
    lease         = optional(number, 300)
    drain         = optional(number, 120)
    max_price     = optional(string)
  }))
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.pools) : can(regex("^[a-z0-9][a-z0-9_-]{0,62}$", name))])
    error_message = "A pool's name has up to 63 small letters, digits, dashes and underscores."
  }

  validation {
    condition = alltrue([for pool in values(var.pools) : length(pool.instance_types) >= 1 && length(pool.instance_types) <= 20 &&
    alltrue([for type in pool.instance_types : can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9-]+$", type))])])
    error_message = "A pool has 1 to 20 instance types, such as g5.xlarge."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : alltrue([for zone in pool.zones : can(regex("^[a-z]{2}(-[a-z]+)+-[0-9][a-h]$", zone))])])
    error_message = "A zone looks like eu-central-1a."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.max >= 1 && pool.max <= 1000 && floor(pool.max) == pool.max])
    error_message = "max is a whole number from 1 to 1000."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : contains(["price-capacity-optimized", "lowest-price"], pool.allocation)])
    error_message = "allocation is price-capacity-optimized or lowest-price."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : can(regex("^(|stock|baked|ami-[0-9a-f]{8,17})$", pool.image)) && can(regex("^(|ami-[0-9a-f]{8,17})$", pool.ami))])
    error_message = "image is stock, baked or an AMI's id (empty: stock, or what ami says); ami is empty or an AMI's id."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : contains(["none", "volume", "snapshot", "s3"], pool.model_storage.kind)])
    error_message = "model_storage.kind is volume, snapshot, s3 or none."
  }

  validation {
    condition = alltrue([for pool in values(var.pools) : pool.disk_gb >= 30 && pool.disk_gb <= 16000 && pool.model_storage.size_gb >= 10 && pool.model_storage.size_gb <= 16000 &&
    pool.disk_throughput >= 125 && pool.disk_throughput <= 1000 && pool.model_storage.throughput >= 125 && pool.model_storage.throughput <= 1000])
    error_message = "disk_gb is 30 to 16000, model_storage.size_gb 10 to 16000, a throughput 125 to 1000 MB/s."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.boot_deadline >= 60 && pool.lease >= 60 && pool.drain >= 0])
    error_message = "boot_deadline and lease are at least 60 seconds: less would end machines on a short loss of the connection."
  }

  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.max_price == null || can(regex("^[0-9]+(\\.[0-9]+)?$", pool.max_price))])
    error_message = "max_price is an amount of USD an hour, such as 0.40."
  }
}

variable "vpc_cidr" {
  description = "Addresses of the stack's own network: a /16 to /20, which must not overlap the mesh."
  type        = string
  default     = "10.78.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false)
    error_message = "vpc_cidr is an IPv4 network from /16 to /20."
  }
}

variable "private_subnet" {
  description = "Put nodes into private subnets behind a NAT gateway. Costs about 35 USD a month and each GB that passes."
  type        = bool
  default     = false
}

variable "vpc_endpoints" {
  description = "Reach SQS, Auto Scaling, EC2, Secrets Manager and the registry by interface endpoints, about 8 USD a month each. S3's endpoint is free and always there."
  type        = bool
  default     = false
}

variable "alerts" {
  description = "E-mail addresses that AWS tells of budgets and alarms. Each must confirm the mail that AWS sends it once."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alerts : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", address))]) && length(var.alerts) <= 10
    error_message = "alerts holds up to 10 e-mail addresses."
  }
}

variable "monthly_budgets" {
  description = "Amounts in USD a month of the whole account at which AWS warns: when the amount is forecast, and when it is spent."
  type        = list(number)
  default     = [50, 100, 200]

  validation {
    condition     = alltrue([for amount in var.monthly_budgets : amount >= 1 && floor(amount) == amount]) && length(distinct(var.monthly_budgets)) == length(var.monthly_budgets)
    error_message = "monthly_budgets holds different whole amounts of 1 USD or more."
  }
}

variable "lighthouse" {
  description = "A lighthouse of the mesh on a small machine with a fixed address; null: none here. `user_data` sets it up and must hold no secret; `ami` replaces Amazon Linux 2023."
  type = object({
    name          = string
    instance_type = optional(string, "t4g.nano")
    user_data     = optional(string, "")
    ami           = optional(string, "")
  })
  default = null

  validation {
    condition     = var.lighthouse == null || can(regex("^[a-z0-9][a-z0-9-]{0,62}$", var.lighthouse.name))
    error_message = "The lighthouse's name has up to 63 small letters, digits and dashes."
  }

  validation {
    condition     = try(length(base64encode(var.lighthouse.user_data)) <= 21848, true)
    error_message = "The lighthouse's user_data is larger than the 16,384 bytes that EC2 takes."
  }
}

variable "registry" {
  description = "Also make an ECR repository for engine images of your own."
  type        = bool
  default     = false
}

variable "backups" {
  description = "Keep versions and a lifecycle for backups under `backups/` in the stack's bucket, and let the keeper write there."
  type        = bool
  default     = true
}

variable "backup_days" {
  description = "How many days a backup is kept."
  type        = number
  default     = 90

  validation {
    condition     = var.backup_days >= 1 && floor(var.backup_days) == var.backup_days
    error_message = "backup_days is a whole number of days."
  }
}

variable "force_destroy" {
  description = "Let `terraform destroy` delete what is left in the bucket and the registry: logs, models, backups, images. Must be applied before the destroy."
  type        = bool
  default     = false
}

variable "dead_man_minutes" {
  description = "How often AWS itself sets a group to zero that nobody has renewed."
  type        = number
  default     = 5

  validation {
    condition     = contains([1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30], var.dead_man_minutes)
    error_message = "dead_man_minutes divides an hour evenly: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30."
  }
}

variable "longest_run_hours" {
  description = "An alarm goes off when a pool's group had an instance for so many hours without a pause."
  type        = number
  default     = 12

  validation {
    condition     = var.longest_run_hours >= 1 && var.longest_run_hours <= 168 && floor(var.longest_run_hours) == var.longest_run_hours
    error_message = "longest_run_hours is a whole number from 1 to 168: CloudWatch looks back a week at the most."
  }
}

variable "mesh_port" {
  description = "UDP port of the mesh, the only one that is open to the world."
  type        = number
  default     = 4242

  validation {
    condition     = var.mesh_port >= 1 && var.mesh_port <= 65535
    error_message = "A port is a number from 1 to 65535."
  }
}

variable "session_manager" {
  description = "Also let people in by SSM Session Manager, to look at a node that does not start. Off: nobody can log in to a node."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Further tags of everything that is made."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(key, "lamplighter:") && !startswith(key, "aws:")])
    error_message = "Tags that begin with lamplighter: or aws: are not yours to set."
  }

  # Machines read their tags from the metadata service, and AWS starts none whose tags cannot be written into its URLs.
  validation {
    condition     = alltrue([for key in keys(var.tags) : can(regex("^[A-Za-z0-9+=.,_:@-]{1,128}$", key))])
    error_message = "The name of a tag has letters, digits and + - = . , _ : @ only: AWS starts no machine with another one."
  }
}
