// Tries whether a stored secret still opens.
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
}
try {
  console.log(await client.secret.validateSecret(req))
} catch (error) {
  console.error('Error:', error)
}
