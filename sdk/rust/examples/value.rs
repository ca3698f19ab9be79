//! The example of the README.
#![expect(clippy::print_stdout, reason = "an example shows what it got")]

use agentrouter_sdk::Client;
use agentrouter_sdk::secret::v1::GetSecretValueRequest;

#[tokio::main]
async fn main() -> Result<(), agentrouter_sdk::Error> {
    // Reads AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. .base_url(…) and .api_key(…) override them.
    let client = Client::builder().build()?;

    let request = GetSecretValueRequest {
        name: "openai-api-key".into(),
        realm: "llm-keys".into(),
        ..Default::default()
    };
    match client.secret().get_secret_value(request).await {
        Ok(response) => {
            println!("version {} is {} bytes long", response.secret.version, response.value.len());
        }
        Err(error) if error.is_not_found() => println!("there is no such secret"),
        Err(error) => return Err(error),
    }
    Ok(())
}
