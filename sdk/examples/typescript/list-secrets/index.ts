// Lists the metadata of the secrets of a realm that have a tag.
//
// AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
import { Client } from '@tetrate/agentrouter-sdk'

const client = new Client({
  baseUrl: process.env.AGENTROUTER_BASE_URL,
  apiKey: process.env.AGENTROUTER_API_KEY,
})

const req = {
  realm: 'llm-providers',
  tags: { env: 'prod' },
  pageSize: 100,
}
try {
  console.log(await client.secret.listSecrets(req))
} catch (error) {
  console.error('Error:', error)
}
