// Reads the plaintext of a secret, as the gateway does before it calls a model.
//
// AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
import { Client } from '@tetrate/agentrouter-sdk'

const client = new Client({
  baseUrl: process.env.AGENTROUTER_BASE_URL,
  apiKey: process.env.AGENTROUTER_API_KEY,
})

const req = {
  name: 'openai-api-key',
  realm: 'llm-providers',
  userId: 'system',
}
try {
  const response = await client.secret.getSecretValue(req)
  // The text of a message omits the value.
  console.log(response)
  console.log('value:', response.value)
} catch (error) {
  console.error('Error:', error)
}
