#!/bin/sh
# Requires IMDSv2 tokens on the instances for which nothing speaks against it, or undoes that.
# Read it before you run it:  sh require-tokens.sh apply   or   sh require-tokens.sh undo
#
# This changes running instances only. Also change what makes new ones, or the next instance undoes it:
#   launch templates and launch configurations of Auto Scaling groups:  MetadataOptions: HttpTokens=required
#   images:    aws ec2 modify-image-attribute --image-id ami-... --imds-support v2.0
#   accounts:  aws ec2 modify-instance-metadata-defaults --http-tokens required --region ...
# After that: CloudWatch's MetadataNoTokenRejected counts what breaks, and so does imds-analyzer.
set -eu

require() { # instance region [options]
    instance=$1 region=$2
    shift 2
    aws ec2 modify-instance-metadata-options --instance-id "$instance" --region "$region" --http-tokens required "$@"
}

# Leaves a raised hop limit as it is.
undo() { # instance region
    aws ec2 modify-instance-metadata-options --instance-id "$1" --region "$2" --http-tokens optional
}

case ${1-} in
apply)
    # ip-10-0-0-3, image ami-0123456789abcdef0: 2026-11-22 00:00 to 2026-11-30 00:00, 192 hours, 40 v2 calls, no v1 call, nothing lost
    require i-0000000000000000c eu-central-1
    ;;
undo)
    undo i-0000000000000000c eu-central-1
    ;;
*)
    echo "usage: sh $0 apply|undo" >&2
    exit 2
    ;;
esac
# Left out: 1 hosts that are not ready, 1 that are unproven. imds-analyzer report says why.
