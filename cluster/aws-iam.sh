#!/usr/bin/env bash
# bash cluster/aws-iam.sh BUCKET      once per account: the bucket of runs, and the two roles that cluster/aws.yaml names
#
# Costs nothing but what lies in the bucket. raysim-worker may read and write the bucket, no more; raysim-head may also
# start, tag and end machines and hand them the role raysim-worker. Taking it back: aws iam delete-instance-profile,
# delete-role-policy and delete-role for both; the bucket: aws s3 rb --force s3://BUCKET.
set -euo pipefail
bucket=${1:?"a bucket name"}
account=$(aws sts get-caller-identity --query Account --output text)
aws s3 mb "s3://$bucket"
aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
  BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
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
  [ $role = raysim-head ] && statements="$storage,$machines,$pass"
  aws iam create-role --role-name $role --assume-role-policy-document "$trust"
  aws iam put-role-policy --role-name $role --policy-name raysim \
    --policy-document '{"Version":"2012-10-17","Statement":['"$statements"']}'
  aws iam create-instance-profile --instance-profile-name $role
  aws iam add-role-to-instance-profile --instance-profile-name $role --role-name $role
done
