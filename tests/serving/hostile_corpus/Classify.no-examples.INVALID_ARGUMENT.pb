


classifier