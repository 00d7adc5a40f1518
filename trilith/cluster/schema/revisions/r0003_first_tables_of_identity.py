"""First tables of identity."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_table(
        "identity_access_rules",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64)),
        sa.Column("service", sa.String(length=64)),
        sa.Column("path", sa.String(length=225)),
        sa.Column("method", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_identity_access_rules_user_id", "identity_access_rules", ["user_id"], unique=False)
    steps.create_table(
        "identity_application_credentials",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", steps.LONG_TEXT),
        sa.Column("user_id", sa.String(length=64)),
        sa.Column("project_id", sa.String(length=64)),
        sa.Column("roles", sa.JSON()),
        sa.Column("expires_at", sa.String(length=26)),
        sa.Column("unrestricted", sa.Boolean()),
        sa.Column("secret_hash", sa.String(length=255)),
        sa.Column("access_rules", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("user_id", "name"),
    )
    steps.create_index(
        "ix_identity_application_credentials_project_id",
        "identity_application_credentials",
        ["project_id"],
        unique=False,
    )
    steps.create_index(
        "ix_identity_application_credentials_user_id", "identity_application_credentials", ["user_id"], unique=False
    )
    steps.create_table(
        "identity_domains",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64)),
        sa.Column("description", steps.LONG_TEXT),
        sa.Column("enabled", sa.Boolean()),
        sa.Column("tags", sa.JSON()),
        sa.Column("options", sa.JSON()),
        sa.Column("token_epoch", sa.Integer()),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    steps.create_table(
        "identity_endpoints",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("interface", sa.String(length=64)),
        sa.Column("region_id", sa.String(length=64)),
        sa.Column("service_id", sa.String(length=64)),
        sa.Column("url", sa.String(length=1024)),
        sa.Column("name", sa.String(length=255)),
        sa.Column("enabled", sa.Boolean()),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_identity_endpoints_service_id", "identity_endpoints", ["service_id"], unique=False)
    steps.create_table(
        "identity_groups",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64)),
        sa.Column("domain_id", sa.String(length=64)),
        sa.Column("description", steps.LONG_TEXT),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("domain_id", "name"),
    )
    steps.create_table(
        "identity_memberships",
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "group_id"),
    )
    steps.create_index("ix_identity_memberships_group_id", "identity_memberships", ["group_id"], unique=False)
    steps.create_table(
        "identity_projects",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64)),
        sa.Column("domain_id", sa.String(length=64)),
        sa.Column("parent_id", sa.String(length=64)),
        sa.Column("is_domain", sa.Boolean()),
        sa.Column("description", steps.LONG_TEXT),
        sa.Column("enabled", sa.Boolean()),
        sa.Column("tags", sa.JSON()),
        sa.Column("options", sa.JSON()),
        sa.Column("ancestors", sa.JSON()),
        sa.Column("token_epoch", sa.Integer()),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("domain_id", "name"),
    )
    steps.create_table(
        "identity_regions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("description", sa.String(length=255)),
        sa.Column("parent_region_id", sa.String(length=64)),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_table(
        "identity_revoked_tokens",
        sa.Column("audit_id", sa.String(length=64), nullable=False),
        sa.Column("expires_us", sa.BigInteger()),
        sa.PrimaryKeyConstraint("audit_id"),
    )
    steps.create_index("ix_identity_revoked_tokens_expires_us", "identity_revoked_tokens", ["expires_us"], unique=False)
    steps.create_table(
        "identity_role_assignments",
        sa.Column("actor_id", sa.String(length=64), nullable=False),
        sa.Column("target_id", sa.String(length=64), nullable=False),
        sa.Column("role_id", sa.String(length=64), nullable=False),
        sa.Column("inherited", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.String(length=8), nullable=False),
        sa.Column("target", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("actor_id", "target_id", "role_id", "inherited"),
    )
    steps.create_index("ix_identity_role_assignments_role_id", "identity_role_assignments", ["role_id"], unique=False)
    steps.create_index(
        "ix_identity_role_assignments_target_id", "identity_role_assignments", ["target_id"], unique=False
    )
    steps.create_table(
        "identity_role_implications",
        sa.Column("prior_role_id", sa.String(length=64), nullable=False),
        sa.Column("implied_role_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("prior_role_id", "implied_role_id"),
    )
    steps.create_table(
        "identity_roles",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("domain_id", sa.String(length=64)),
        sa.Column("description", steps.LONG_TEXT),
        sa.Column("options", sa.JSON()),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("domain_id", "name"),
    )
    steps.create_table(
        "identity_services",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=255)),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", steps.LONG_TEXT),
        sa.Column("enabled", sa.Boolean()),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_table(
        "identity_users",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("domain_id", sa.String(length=64)),
        sa.Column("default_project_id", sa.String(length=64)),
        sa.Column("enabled", sa.Boolean()),
        sa.Column("options", sa.JSON()),
        sa.Column("password_expires_at", sa.String(length=26)),
        sa.Column("password_hash", sa.String(length=255)),
        sa.Column("token_epoch", sa.Integer()),
        sa.Column("extra", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("domain_id", "name"),
    )
    steps.create_index("ix_identity_users_default_project_id", "identity_users", ["default_project_id"], unique=False)
