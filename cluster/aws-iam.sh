#!/usr/bin/env bash
# bash cluster/aws-iam.sh BUCKET [REGION]      once per account: the bucket of runs, and the roles that aws.yaml names
#
# REGION as in aws.yaml (us-west-2): within a region traffic to the bucket is free. Costs nothing but what lies in the
# bucket. raysim-worker may read and write the bucket, no more; raysim-head may also start, tag and end machines and
# hand them the role raysim-worker. Run again it leaves what is there and writes the roles' rights anew, for the BUCKET
# named last. Taking it back, for both roles: aws iam remove-role-from-instance-profile --instance-profile-name ROLE
# --role-name ROLE; then delete-instance-profile, delete-role-policy (--policy-name raysim) and delete-role. The bucket
# with all its runs: aws s3 rb --force s3://BUCKET.
set -euo pipefail
bucket=${1:?"a bucket name"}
region=${2:-us-west-2}
account=$(aws sts get-caller-identity --query Account --output text)
there() { # whether AWS knows it
  aws "$@" >/dev/null 2>&1
}
there s3api head-bucket --bucket "$bucket" || aws s3 mb "s3://$bucket" --region "$region"
aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
  BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
# An account's first spot machine needs this role of AWS's own; raysim-head may not make it, and would be refused spot.
there iam get-role --role-name AWSServiceRoleForEC2Spot ||
  aws iam create-service-linked-role --aws-service-name spot.amazonaws.com
statement() { # actions, resources
  printf '{"Effect":"Allow","Action":[%s],"Resource":[%s]}' "$1" "$2"
}
trust='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole",
  "Principal":{"Service":"ec2.amazonaws.com"}}]}'
storage=$(statement '"s3:ListBucket","s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload"' \
  '"arn:aws:s3:::'"$bucket"'","arn:aws:s3:::'"$bucket"'/*"')
machines=$(statement '"ec2:RunInstances","ec2:StartInstances","ec2:StopInstances","ec2:TerminateInstances",
  "ec2:CreateTags","ec2:DeleteTags","ec2:Describe*","ssm:GetParameters"' '"*"')
pass=$(statement '"iam:PassRole"' '"arn:aws:iam::'"$account"':role/raysim-worker"')
for role in raysim-worker raysim-head; do
  statements=$storage
  [ $role = raysim-worker ] || statements="$storage,$machines,$pass"
  there iam get-role --role-name $role ||
    aws iam create-role --role-name $role --assume-role-policy-document "$trust"
  aws iam put-role-policy --role-name $role --policy-name raysim \
    --policy-document '{"Version":"2012-10-17","Statement":['"$statements"']}'
  there iam get-instance-profile --instance-profile-name $role ||
    aws iam create-instance-profile --instance-profile-name $role
  held=$(aws iam get-instance-profile --instance-profile-name $role \
    --query 'InstanceProfile.Roles[].RoleName' --output text)
  [ "$held" = $role ] || aws iam add-role-to-instance-profile --instance-profile-name $role --role-name $role
done
