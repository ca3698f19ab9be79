//! Tests of validations of secrets with many versions.

use std::time::Duration;

use agentrouter_model::rpc::{CreateSecret, RotateSecret, ValidateSecret, Validation};
use agentrouter_testkit::TestService;

/// The most versions that a validation opens by default.
const MOST: usize = 256;

#[tokio::test]
async fn a_validation_opens_a_bounded_number_of_versions_the_newest_first() {
    let test = TestService::start().await;
    let ctx = test.call_by("ann", "secrets/read,secrets/write").await;
    let name = "rotated-often";
    let create = CreateSecret { name, value: "v", ..CreateSecret::default() };
    test.service.create(ctx.clone(), create).await.expect("created");
    let rotate = async |count: usize| {
        let grace_period = Some((3600, 0));
        for _ in 0..count {
            let rotate = RotateSecret { name, new_value: "v", grace_period, ..RotateSecret::default() };
            test.service.rotate(ctx.clone(), rotate).await.expect("rotated");
        }
    };
    let validate = async || {
        let request = ValidateSecret { name, ..ValidateSecret::default() };
        test.service.validate(&ctx, request).await.expect("validated")
    };
    let valid = || Validation { valid: true, error: String::new() };
    assert_eq!(validate().await, valid());
    rotate(MOST - 1).await;
    assert_eq!(validate().await, valid(), "as many as are opened");

    rotate(20).await;
    let error = "version 20 and earlier: unchecked".to_owned();
    assert_eq!(validate().await, Validation { valid: false, error });

    test.clock.advance(Duration::from_secs(3600));
    assert_eq!(validate().await, valid(), "only the active version is left");
}
