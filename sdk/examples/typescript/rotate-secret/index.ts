// Gives a secret a new value; the one before stays readable for a day.
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
  newValue: 'sk-example-second',
}
try {
  console.log(await client.secret.rotateSecret(req))
} catch (error) {
  console.error('Error:', error)
}
