import pytest
from my_storage import JsonFiles

from dsfast.testing import StorageConformance


class TestJsonFiles(StorageConformance):
    plugin_class = JsonFiles
    bulk = 100  # it is slow

    @pytest.fixture
    def options(self, tmp_path):
        return {"directory": str(tmp_path)}
