// Stores a provider key and says which version it is.
import { Client } from '@tetrate/agentrouter-sdk'

const client = new Client()
const created = await client.secret.createSecret({
  name: 'openai-api-key',
  realm: 'mcp',
  value: 'sk-example',
})
console.log(created.secret?.name, 'version', created.secret?.version)
