"""First tables of network."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_table(
        "network_agent_notes",
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("admin_state_up", sa.Boolean(), nullable=False),
        sa.Column("description", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("agent_id"),
    )
    steps.create_table(
        "network_allocations",
        sa.Column("subnet_id", sa.String(length=64), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=False),
        sa.Column("port_id", sa.String(length=64), nullable=False),
        sa.Column("network_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("subnet_id", "ip_address"),
    )
    steps.create_index("ix_network_allocations_network_id", "network_allocations", ["network_id"], unique=False)
    steps.create_index("ix_network_allocations_port_id", "network_allocations", ["port_id"], unique=False)
    steps.create_table(
        "network_auto_allocated",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("network_id", sa.String(length=64), nullable=False),
        sa.Column("router_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("project_id"),
    )
    steps.create_table(
        "network_floatingips",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("floating_network_id", sa.String(length=64)),
        sa.Column("floating_ip_address", sa.String(length=45)),
        sa.Column("port_id", sa.String(length=64)),
        sa.Column("fixed_ip_address", sa.String(length=45)),
        sa.Column("router_id", sa.String(length=64)),
        sa.Column("status", sa.String(length=64)),
        sa.Column("floating_port_id", sa.String(length=64)),
        sa.Column("dns_name", sa.String(length=255)),
        sa.Column("dns_domain", sa.String(length=255)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("port_id", "fixed_ip_address"),
    )
    steps.create_index(
        "ix_network_floatingips_floating_network_id", "network_floatingips", ["floating_network_id"], unique=False
    )
    steps.create_index("ix_network_floatingips_port_id", "network_floatingips", ["port_id"], unique=False)
    steps.create_index("ix_network_floatingips_project_id", "network_floatingips", ["project_id"], unique=False)
    steps.create_index("ix_network_floatingips_router_id", "network_floatingips", ["router_id"], unique=False)
    steps.create_table(
        "network_networks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("admin_state_up", sa.Boolean()),
        sa.Column("mtu", sa.Integer()),
        sa.Column("external", sa.Boolean()),
        sa.Column("is_default", sa.Boolean()),
        sa.Column("network_type", sa.String(length=64)),
        sa.Column("physical_network", sa.String(length=64)),
        sa.Column("segmentation_id", sa.Integer()),
        sa.Column("segment_key", sa.String(length=128)),
        sa.Column("port_security_enabled", sa.Boolean()),
        sa.Column("dns_domain", sa.String(length=255)),
        sa.Column("availability_zone_hints", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("segment_key"),
    )
    steps.create_index("ix_network_networks_project_id", "network_networks", ["project_id"], unique=False)
    steps.create_table(
        "network_ports",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("network_id", sa.String(length=64)),
        sa.Column("mac_address", sa.String(length=17)),
        sa.Column("admin_state_up", sa.Boolean()),
        sa.Column("fixed_ips", sa.JSON()),
        sa.Column("device_id", sa.String(length=255)),
        sa.Column("device_owner", sa.String(length=255)),
        sa.Column("status", sa.String(length=16)),
        sa.Column("port_security_enabled", sa.Boolean()),
        sa.Column("security_groups", sa.JSON()),
        sa.Column("allowed_address_pairs", sa.JSON()),
        sa.Column("extra_dhcp_opts", sa.JSON()),
        sa.Column("binding_host", sa.String(length=255)),
        sa.Column("binding_peer", sa.String(length=255)),
        sa.Column("binding_profile", sa.JSON()),
        sa.Column("binding_vnic_type", sa.String(length=64)),
        sa.Column("dns_name", sa.String(length=63)),
        sa.Column("machine_id", sa.String(length=64)),
        sa.Column("seen_up", sa.Boolean()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("network_id", "mac_address"),
    )
    steps.create_index("ix_network_ports_device_id", "network_ports", ["device_id"], unique=False)
    steps.create_index("ix_network_ports_device_owner", "network_ports", ["device_owner"], unique=False)
    steps.create_index("ix_network_ports_machine_id", "network_ports", ["machine_id"], unique=False)
    steps.create_index("ix_network_ports_network_id", "network_ports", ["network_id"], unique=False)
    steps.create_index("ix_network_ports_project_id", "network_ports", ["project_id"], unique=False)
    steps.create_table(
        "network_rbac_policies",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("object_type", sa.String(length=32)),
        sa.Column("object_id", sa.String(length=64)),
        sa.Column("action", sa.String(length=64)),
        sa.Column("target_project", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("object_id", "action", "target_project"),
    )
    steps.create_index("ix_network_rbac_policies_object_id", "network_rbac_policies", ["object_id"], unique=False)
    steps.create_index("ix_network_rbac_policies_project_id", "network_rbac_policies", ["project_id"], unique=False)
    steps.create_table(
        "network_repairs",
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("what"),
    )
    steps.create_table(
        "network_routers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("admin_state_up", sa.Boolean()),
        sa.Column("external_network_id", sa.String(length=64)),
        sa.Column("gateway_port_id", sa.String(length=64)),
        sa.Column("enable_snat", sa.Boolean()),
        sa.Column("routes", sa.JSON()),
        sa.Column("availability_zone_hints", sa.JSON()),
        sa.Column("flavor_id", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index(
        "ix_network_routers_external_network_id", "network_routers", ["external_network_id"], unique=False
    )
    steps.create_index("ix_network_routers_project_id", "network_routers", ["project_id"], unique=False)
    steps.create_table(
        "network_security_group_rules",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("security_group_id", sa.String(length=64)),
        sa.Column("direction", sa.String(length=64)),
        sa.Column("ethertype", sa.String(length=64)),
        sa.Column("protocol", sa.String(length=40)),
        sa.Column("port_range_min", sa.Integer()),
        sa.Column("port_range_max", sa.Integer()),
        sa.Column("remote_ip_prefix", sa.String(length=64)),
        sa.Column("remote_group_id", sa.String(length=64)),
        sa.Column("remote_address_group_id", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index(
        "ix_network_security_group_rules_project_id", "network_security_group_rules", ["project_id"], unique=False
    )
    steps.create_index(
        "ix_network_security_group_rules_remote_group_id",
        "network_security_group_rules",
        ["remote_group_id"],
        unique=False,
    )
    steps.create_index(
        "ix_network_security_group_rules_security_group_id",
        "network_security_group_rules",
        ["security_group_id"],
        unique=False,
    )
    steps.create_table(
        "network_security_groups",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("stateful", sa.Boolean()),
        sa.Column("default_of", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("default_of"),
    )
    steps.create_index("ix_network_security_groups_project_id", "network_security_groups", ["project_id"], unique=False)
    steps.create_table(
        "network_subnetpools",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("prefixes", sa.JSON()),
        sa.Column("ip_version", sa.Integer()),
        sa.Column("default_prefixlen", sa.Integer()),
        sa.Column("min_prefixlen", sa.Integer()),
        sa.Column("max_prefixlen", sa.Integer()),
        sa.Column("default_quota", sa.Integer()),
        sa.Column("address_scope_id", sa.String(length=64)),
        sa.Column("is_default", sa.Boolean()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_network_subnetpools_project_id", "network_subnetpools", ["project_id"], unique=False)
    steps.create_table(
        "network_subnets",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("network_id", sa.String(length=64)),
        sa.Column("ip_version", sa.Integer()),
        sa.Column("subnetpool_id", sa.String(length=64)),
        sa.Column("cidr", sa.String(length=49)),
        sa.Column("gateway_ip", sa.String(length=45)),
        sa.Column("allocation_pools", sa.JSON()),
        sa.Column("dns_nameservers", sa.JSON()),
        sa.Column("host_routes", sa.JSON()),
        sa.Column("enable_dhcp", sa.Boolean()),
        sa.Column("ipv6_ra_mode", sa.String(length=64)),
        sa.Column("ipv6_address_mode", sa.String(length=64)),
        sa.Column("service_types", sa.JSON()),
        sa.Column("segment_id", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("tags", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_network_subnets_network_id", "network_subnets", ["network_id"], unique=False)
    steps.create_index("ix_network_subnets_project_id", "network_subnets", ["project_id"], unique=False)
    steps.create_index("ix_network_subnets_subnetpool_id", "network_subnets", ["subnetpool_id"], unique=False)
